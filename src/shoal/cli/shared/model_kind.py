"""What kind of model a command was given, before anything that only one kind needs is imported."""

from __future__ import annotations


def is_graph(model: str) -> bool:
    """Whether a MODEL argument names an ONNX file, by its suffix."""
    return model.lower().endswith(".onnx")
