"""Layers that carry a state of a fixed size from token to token."""
