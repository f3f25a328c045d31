"""Whether a path holds a language model as an ONNX graph with past keys and values, and in which file.

Names of files are checked first, so that nothing is read from a folder that cannot be one.
"""

from __future__ import annotations

from pathlib import Path

from shoal.errors import ModelLoadError, ShoalError
from shoal.model.formats.model_file import GENAI_FILE, read_json

SETTINGS_FILES = (GENAI_FILE, "config.json")
_GRAPHS = ("model.onnx", "decoder_model_merged.onnx")
"""Optimum's names for a decoder that takes past keys and values. Source: optimum, `ORTModelForCausalLM`."""
_FOLDERS = (".", "onnx")
"""Models for the browser have their graphs in the second folder, below their settings."""
_PARTED = "decoder_with_past_model.onnx"
"""The second of two graphs in older exports, which have no single graph."""


def find_language_graph(path: Path) -> Path | None:
    """The ONNX file of a language model; None: the path holds none.

    Args:
        path: an ONNX file, or a folder.

    Raises:
        ModelLoadError: the model is in a form that cannot be run, or its file cannot be read.
    """
    if path.is_dir():
        if next(path.glob("*.safetensors"), None) is not None:
            return None
        graph = _graph_in(path)
    else:
        graph = path if path.suffix == ".onnx" and path.is_file() else None
    if graph is None or settings_file(graph) is None:
        return None
    from shoal.model.graph.file.graph_file import open_graph  # imports onnx, which nothing else here needs

    try:
        names = {spec.name for spec in open_graph(graph).inputs}
    except ShoalError:
        return None  # whoever opens it as a graph reports why
    return graph if any(name.startswith("past_key_values.") for name in names) else None


def settings_file(graph: Path) -> Path | None:
    """The file with the model's settings; it lies beside the graph, or above the graph's folder `onnx`."""
    places = (folder / name for folder in _homes(graph) for name in SETTINGS_FILES)
    return next((place for place in places if place.is_file()), None)


def text_folder(graph: Path) -> Path:
    """The folder with the tokenizer of a graph's model. Raises ModelLoadError if there is none."""
    for folder in _homes(graph):
        if (folder / "tokenizer.json").is_file() or (folder / "tokenizer.model").is_file():
            return folder
    raise ModelLoadError(
        f"{graph}: it is a language model, but there is no tokenizer.json beside it; put its tokenizer there, "
        "or serve it as plain tensors (--as graph)"
    )


def _homes(graph: Path) -> list[Path]:
    folder = graph.absolute().parent
    return [folder, folder.parent] if folder.name == _FOLDERS[1] else [folder]


def _graph_in(folder: Path) -> Path | None:
    """Raises ModelLoadError."""
    if (folder / GENAI_FILE).is_file():
        decoder = (read_json(folder / GENAI_FILE).get("model") or {}).get("decoder") or {}
        name = decoder.get("filename")
        if isinstance(name, str) and Path(name).name == name and (folder / name).is_file():
            return folder / name
    places = [folder / inner for inner in _FOLDERS]
    found = next((place / name for place in places for name in _GRAPHS if (place / name).is_file()), None)
    if found is None and any((place / _PARTED).is_file() for place in places):
        raise ModelLoadError(
            f"{folder}: it has one graph for the prompt and another for what follows ({_PARTED}); export it "
            "as one graph (decoder_model_merged.onnx, or model.onnx with past keys and values)"
        )
    return found
