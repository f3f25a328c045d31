"""What all kinds of recurrent layers have in common."""

Shape = tuple[int, ...]
TAPS = (2, 3, 4)
"""tokens that a convolution may see: native/recurrence/args.h"""
BLOCK = 32
"""weights of a row that share a scale: weights.py"""
