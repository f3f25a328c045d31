"""What kind of model a command was given, before anything that only one kind needs is imported."""

from __future__ import annotations

from pathlib import Path

from shoal.errors import ConfigError

CHAIN_FILE = "chain.yaml"
"""As `chains.definition` has it."""


def is_graph(model: str) -> bool:
    """Whether a MODEL argument names an ONNX file here, by its suffix; one of the hub is a language model."""
    return model.lower().endswith(".onnx") and not model.startswith("hf:")


def is_language_graph(model: str, served_as: str = "auto") -> bool:
    """Whether it is a language model as an ONNX graph, with past keys and values: its file, or a folder that holds it.

    Args:
        model: as the user named it.
        served_as: the option `--as`: `auto`, or `graph` for plain tensors in any case.

    Raises:
        ConfigError: `served_as` is neither.
        ModelLoadError: it is one in a form that cannot be run.
    """
    if served_as not in ("auto", "graph"):
        raise ConfigError(f"--as must be auto or graph, not {served_as!r}")
    path = Path(model)
    if served_as == "graph" or not (is_graph(model) or path.is_dir()):
        return False
    from shoal.model.language_graph.detect import find_language_graph

    return find_language_graph(path) is not None


def is_tensor_graph(model: str, served_as: str = "auto") -> bool:
    """Whether it names an ONNX file that is computed as plain tensors. Raises as `is_language_graph`."""
    return is_graph(model) and not is_language_graph(model, served_as)


def is_chain(model: str) -> bool:
    """Whether it names a chain of models: a YAML file, or a folder that holds `chain.yaml`."""
    return model.lower().endswith((".yaml", ".yml")) or (Path(model) / CHAIN_FILE).is_file()
