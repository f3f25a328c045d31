"""An encoder of texts in a folder: its tokenizer, its settings, and its graph, which is there or is built once."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shoal.config import cache_root
from shoal.errors import ModelLoadError
from shoal.model.encoder.bert_graph import bert_settings, build_bert
from shoal.model.encoder.detect import given_graph
from shoal.model.encoder.sentence_settings import LONGEST, SentenceSettings, read_sentence_settings
from shoal.model.encoder.text_rows import TextRows
from shoal.model.formats.model_file import read_json

_PLAIN = SentenceSettings(pooling="mean", is_normalized=False)
"""Of an encoder that nobody has trained for this. Source: sentence-transformers, for folders without `modules.json`."""
_VERSION = 1
"""Of built graphs: raised when they are built otherwise."""
_MOST_KEPT = 8
"""Built graphs in the cache; the oldest go."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderFolder:
    """What a folder holds."""

    graph: Path
    """the ONNX file: token ids and mask to vectors or scores"""
    rows: TextRows
    sentences: SentenceSettings
    compares: bool
    """whether it scores pairs of texts, in the place of making vectors of single ones"""


def open_encoder(folder: Path) -> EncoderFolder:
    """Read the settings, and build the graph where there is none. Raises ModelLoadError."""
    config_path = folder / "config.json"
    config = read_json(config_path)
    sentences = read_sentence_settings(folder) or _PLAIN
    graph = given_graph(folder)
    architecture = " ".join(map(str, config.get("architectures") or ()))
    compares = "ForSequenceClassification" in architecture
    lengths = [sentences.max_tokens, _positions(config)]
    if graph is None:
        settings = bert_settings(config_path, config)
        lengths.append(settings.max_positions)
        graph = _kept_graph(folder, sentences, lambda: build_bert(folder, settings, sentences))
    max_tokens = min((length for length in lengths if length is not None), default=512)
    pad_id = config.get("pad_token_id")
    rows = TextRows(folder / "tokenizer.json", max_tokens, pad_id if type(pad_id) is int and pad_id >= 0 else 0)
    return EncoderFolder(graph=graph, rows=rows, sentences=sentences, compares=compares)


def _positions(config: Mapping[str, Any]) -> int | None:
    """Tokens of a text at most, as far as the settings say: RoBERTa's table has rows for padding, too."""
    size = config.get("max_position_embeddings")
    if type(size) is not int or not 0 < size < LONGEST:
        return None
    pad_id = config.get("pad_token_id")
    is_shifted = config.get("model_type") in ("roberta", "xlm-roberta", "camembert", "mpnet")
    return size - (pad_id + 1 if is_shifted and type(pad_id) is int else 0)


def _kept_graph(folder: Path, sentences: SentenceSettings, build: Callable[[], bytes]) -> Path:
    """The built graph in the cache, by the states of the files that it is built of."""
    digest = hashlib.sha256(f"{_VERSION} {sentences}".encode())
    for path in sorted([folder / "config.json", *folder.glob("*.safetensors")]):
        state = path.stat()
        digest.update(f"\0{path.resolve()}\0{state.st_size}\0{state.st_mtime_ns}\0{state.st_ino}".encode())
    cache = cache_root() / "encoders"
    kept = cache / f"{digest.hexdigest()[:32]}.onnx"
    if not kept.is_file():
        _write(kept, build())
        for old in sorted(cache.glob("*.onnx"), key=lambda path: path.stat().st_mtime)[:-_MOST_KEPT]:
            old.unlink(missing_ok=True)
    return kept


def _write(path: Path, content: bytes) -> None:
    """Beside its place and then there, so that nobody reads half of it. Raises ModelLoadError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            try:
                file.write(content)
                file.close()
                os.replace(file.name, path)
            except BaseException:
                os.unlink(file.name)
                raise
    except OSError as error:
        raise ModelLoadError(f"{path}: cannot be written ({error.strerror or error})") from error
