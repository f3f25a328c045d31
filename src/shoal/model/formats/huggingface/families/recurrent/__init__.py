"""Families with layers that carry a state in the place of keys and values."""
