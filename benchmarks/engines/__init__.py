"""Shoal and other inference engines, all measured the same way."""
