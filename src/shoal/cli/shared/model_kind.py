"""What kind of model a command was given, before anything that only one kind needs is imported."""

from __future__ import annotations

from pathlib import Path

CHAIN_FILE = "chain.yaml"
"""As `chain.definition` has it."""


def is_graph(model: str) -> bool:
    """Whether a MODEL argument names an ONNX file, by its suffix."""
    return model.lower().endswith(".onnx")


def is_chain(model: str) -> bool:
    """Whether it names a chain of models: a YAML file, or a folder that holds `chain.yaml`."""
    return model.lower().endswith((".yaml", ".yml")) or (Path(model) / CHAIN_FILE).is_file()
