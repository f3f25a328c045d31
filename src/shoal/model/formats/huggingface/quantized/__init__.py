"""Matrices that a Hugging Face directory holds as codes and scales, one file for each way of writing them."""
