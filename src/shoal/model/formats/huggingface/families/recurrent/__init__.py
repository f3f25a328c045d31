"""Families with layers that carry a state instead of keys and values."""
