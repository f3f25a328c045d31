"""Opens the files of the language model that a user names, whatever their format."""

from __future__ import annotations

from collections.abc import Sequence

from shoal.config import user_path
from shoal.model.formats.model_path import resolve_model, resolve_settings
from shoal.model.formats.open_weights import open_sizes
from shoal.model.language_graph.detect import find_language_graph
from shoal.model.on_disk import ModelOnDisk
from shoal.protocol.language_messages import AdapterFile


def find_model(name: str, *, sizes_suffice: bool = False, adapters: Sequence[AdapterFile] = ()) -> ModelOnDisk:
    """Open the model that a user names.

    Args:
        name: a .gguf file, a Hugging Face directory, an ONNX graph with past keys and values, a folder that holds one,
            hf:org/name or pkg:NAME.
        sizes_suffice: whether the model's settings are enough, because its weights will never be read.
        adapters: see `ModelOnDisk`; a graph takes none.

    Raises:
        ModelLoadError: there is no such model, or its files are broken or of an unknown kind.
    """
    if sizes_suffice:
        return ModelOnDisk(resolve_settings(name), name=name, open_source=open_sizes, adapters=adapters)
    local = user_path(name)
    path = local if local.exists() else resolve_model(name)
    if graph := find_language_graph(path):
        from shoal.model.language_graph.on_disk import GraphOnDisk  # with onnx

        return GraphOnDisk(graph, name=name)
    return ModelOnDisk(resolve_model(name), name=name, adapters=adapters)
