"""Matrices that a Hugging Face directory holds as codes and scales, with a file for each format."""
