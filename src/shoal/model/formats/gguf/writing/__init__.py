"""GGUF files written from any model that can be read."""
