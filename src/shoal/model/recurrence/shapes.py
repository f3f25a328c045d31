"""What all kinds of recurrent layers have in common."""

Shape = tuple[int, ...]
TAPS = (2, 3, 4)
"""Supported numbers of tokens that a convolution sees. Source: native/recurrence/args.h"""
BLOCK = 32
"""Weights of a row that share a scale, as in weights.py."""
