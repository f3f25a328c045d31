"""The parts of a model's files that some of its layers need, from the headers of the files."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from shoal.model.file_states import model_files
from shoal.model.formats.gguf.header import GgufHeader
from shoal.model.formats.huggingface.tensor_files import read_header

CHUNK_BYTES = 1 << 20
"""Size of the chunks into which files are cut, counted from their beginning."""

_LAYER = re.compile(r"(?:^|\.)(?:blk|layers)\.(\d+)\.")
_ENCODER = re.compile(r"(?:^|\.)encoder\.")
"""An audio encoder is held whole by the stage that has the embedding."""
_EMBEDDINGS = ("token_embd.weight", "embed_tokens.weight")
_HEADS = ("output.weight", "lm_head.weight")

Span = tuple[int, int]
"""Bytes [first, last)"""


def needed_chunks(path: Path, first_layer: int, last_layer: int, num_layers: int) -> dict[str, list[int]]:
    """For each file of a model, the chunks that some layers need: all but those with nothing but tensors of other
    layers.

    Args:
        path: a GGUF file or a Hugging Face directory.
        first_layer: first layer that is held; with layer 0 goes the embedding.
        last_layer: exclusive; with `num_layers` goes the head.
        num_layers: of the model.

    Returns:
        Numbers of chunks, by the file's name in the model's folder.

    Raises:
        ModelLoadError: a header is broken.
    """
    spans = {file: _tensor_spans(file) for file in model_files(path)}
    names = [name for of_file in spans.values() for name in of_file]
    has_head_of_its_own = any(name.endswith(_HEADS) for name in names)

    def is_needed(name: str) -> bool:
        if _ENCODER.search(name):
            return first_layer == 0
        if layer := _LAYER.search(name):
            return first_layer <= int(layer[1]) < last_layer
        if name.endswith(_HEADS) and not name.endswith(_EMBEDDINGS):
            return last_layer == num_layers
        if name.endswith(_EMBEDDINGS):
            return first_layer == 0 or (last_layer == num_layers and not has_head_of_its_own)
        return True

    return {
        file.name: list(
            _chunks_outside(file.stat().st_size, (span for name, span in of_file.items() if not is_needed(name)))
        )
        for file, of_file in spans.items()
    }


def _tensor_spans(file: Path) -> dict[str, Span]:
    """The bytes of each of a file's tensors; empty for a file of another kind."""
    if file.suffix == ".gguf":
        return {name: (one.start_bytes, one.stop_bytes) for name, one in GgufHeader(file).tensors.items()}
    if file.suffix == ".safetensors":
        return {name: (one.start_bytes, one.stop_bytes) for name, one in read_header(file).items()}
    return {}


def _chunks_outside(num_bytes: int, unwanted: Iterable[Span]) -> Iterator[int]:
    """Chunks that have a byte outside all spans."""
    joined: list[list[int]] = []
    for start, stop in sorted(unwanted):
        if joined and start <= joined[-1][1]:
            joined[-1][1] = max(joined[-1][1], stop)
        else:
            joined.append([start, stop])
    for chunk in range(-(-num_bytes // CHUNK_BYTES)):
        first, last = chunk * CHUNK_BYTES, min(num_bytes, (chunk + 1) * CHUNK_BYTES)
        if not any(start <= first and last <= stop for start, stop in joined):
            yield chunk
