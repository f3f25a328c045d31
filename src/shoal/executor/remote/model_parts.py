"""The files of a model on this machine, and the parts of them that a worker needs, for every kind of model.

Other machines get the layers of a language model that they need. They get ONNX graphs, whose nodes are in one file, and
adapters whole.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from shoal.model.adapter.files import is_peft, peft_files
from shoal.model.file_states import file_states, model_files
from shoal.model.formats.needed_chunks import CHUNK_BYTES, needed_chunks
from shoal.protocol.worker_messages import FileState

_GRAPH_SUFFIX = ".onnx"
Layers = tuple[int, int]
"""The range [first, last) of layers."""


def files_of(path: Path) -> dict[str, Path]:
    """The files of a model, or of an adapter given by its `file_to_send`, by their names relative to its folder.

    Raises:
        ModelLoadError: an ONNX file cannot be read, or its weights are missing.
    """
    if is_peft(path):
        return {file.name: file for file in peft_files(path) if file.is_file()}
    if path.suffix.lower() != _GRAPH_SUFFIX:
        return {file.name: file for file in model_files(path)}
    from shoal.model.graph.file.graph_file import open_graph  # and ONNX itself

    return {file.name: path.parent / file.name for file in open_graph(path).files}


def states_of(path: Path, names: Iterable[str]) -> tuple[FileState, ...]:
    """The current states of a model's files. Raises ModelLoadError if one cannot be read."""
    return file_states(path if path.is_dir() else path.parent, names)


def chunks_of(path: Path, files: dict[str, Path], layers: Layers, num_layers: int) -> dict[str, list[int]]:
    """The chunks of each file that a worker with the given layers needs.

    Args:
        path: the path of the model or the adapter.
        files: the result of `files_of`.
        layers: the layers of a language model that are needed; ONNX graphs and adapters are needed whole.
        num_layers: the number of layers of the language model.

    Raises:
        ModelLoadError: a header is broken.
    """
    if path.suffix.lower() != _GRAPH_SUFFIX and not is_peft(path):
        return needed_chunks(path, *layers, num_layers)
    return {name: list(range(-(-file.stat().st_size // CHUNK_BYTES))) for name, file in files.items()}
