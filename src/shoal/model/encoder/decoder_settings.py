"""Whether a language model makes vectors of texts, by what its files say."""

from __future__ import annotations

from pathlib import Path

from shoal.errors import ModelLoadError
from shoal.model.encoder.sentence_settings import SentenceSettings, read_sentence_settings
from shoal.model.formats.gguf.header import GgufHeader

_LAST = 3
_OTHERS = {1: "mean", 2: "cls", 4: "rank"}
"""Values of `pooling_type`. Source: llama.cpp, include/llama.h, `llama_pooling_type`."""


def read_decoder_settings(path: Path) -> SentenceSettings | None:
    """None: it says nothing of vectors. Of a GGUF file's models all vectors have length 1, as in llama.cpp.

    Raises:
        ModelLoadError: its vectors are those of other tokens than the last.
    """
    if path.suffix == ".onnx":
        return None  # a graph hands out no hidden states
    settings = read_sentence_settings(path) if path.is_dir() else _of_gguf(path)
    if settings is not None and settings.pooling != "last":
        raise ModelLoadError(
            f"{path}: a language model's vector of a text is that of its last token here, not by {settings.pooling}"
        )
    return settings


def _of_gguf(path: Path) -> SentenceSettings | None:
    metadata = GgufHeader(path).metadata
    kind = metadata.get(f"{metadata.get('general.architecture')}.pooling_type")
    if kind in (None, 0):
        return None
    if kind != _LAST:
        raise ModelLoadError(
            f"{path}: vectors by {_OTHERS.get(kind, kind)!r:.50} are not supported, only the last token's"
        )
    return SentenceSettings(pooling="last", is_normalized=True)
