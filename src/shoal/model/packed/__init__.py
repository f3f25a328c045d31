"""Weights in the native kernels' layout: packed from the model's file, kept on disk, and mapped by all workers."""
