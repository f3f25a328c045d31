"""Chains of models: graphs, decoding and Python functions, each step feeding others."""
