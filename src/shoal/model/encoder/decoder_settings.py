"""Whether a language model is meant for embeddings or for ranking, by its files."""

from __future__ import annotations

from pathlib import Path

from shoal.errors import ModelLoadError
from shoal.model.encoder.sentence_settings import SentenceSettings, read_sentence_settings
from shoal.model.encoder.yes_no import YesNoSettings, gguf_yes_no, read_yes_no
from shoal.model.formats.gguf.header import GgufHeader

_LAST = 3
_RANK = 4
_OTHERS = {1: "mean", 2: "cls"}
"""Values of `pooling_type`. Source: llama.cpp, include/llama.h, `llama_pooling_type`."""


def read_decoder_settings(path: Path) -> SentenceSettings | YesNoSettings | None:
    """The settings for embeddings or ranking; None: the files have none. Vectors from GGUF models always have length 1,
    as in llama.cpp.

    Raises:
        ModelLoadError: vectors come from other tokens than the last, or ranking is not by `yes` and `no`.
    """
    if path.suffix == ".onnx":
        return None  # a graph returns no hidden states
    settings = (read_yes_no(path) or read_sentence_settings(path)) if path.is_dir() else _of_gguf(path)
    if isinstance(settings, SentenceSettings) and settings.pooling != "last":
        raise ModelLoadError(
            f"{path}: pooling by {settings.pooling} is not supported for language models, only by the last token"
        )
    return settings


def _of_gguf(path: Path) -> SentenceSettings | YesNoSettings | None:
    header = GgufHeader(path)
    metadata = header.metadata
    kind = metadata.get(f"{metadata.get('general.architecture')}.pooling_type")
    if kind in (None, 0):
        return None
    if kind == _RANK:
        return gguf_yes_no(header)
    if kind != _LAST:
        raise ModelLoadError(
            f"{path}: vectors by {_OTHERS.get(kind, kind)!r:.50} are not supported, only the last token's"
        )
    return SentenceSettings(pooling="last", is_normalized=True)
