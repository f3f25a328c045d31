"""Weights in the native kernels' layout: packed from the model's file, kept on disk, mapped by all workers."""
