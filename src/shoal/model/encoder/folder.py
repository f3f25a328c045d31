"""An encoder of texts in a folder: its tokenizer, its settings, and its graph, which is there or is built once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shoal.model.encoder.bert_graph import bert_settings, build_bert
from shoal.model.encoder.detect import given_graph
from shoal.model.encoder.sentence_settings import LONGEST, SentenceSettings, read_sentence_settings
from shoal.model.encoder.text_rows import TextRows
from shoal.model.formats.huggingface.part_tensors import part_files
from shoal.model.formats.model_file import read_json
from shoal.model.graph.kept_graph import kept_graph

_PLAIN = SentenceSettings(pooling="mean", is_normalized=False)
"""Of an encoder that nobody has trained for this. Source: sentence-transformers, for folders without `modules.json`."""
_VERSION = 1
"""Of built graphs: raised when they are built otherwise."""


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
        what = f"{_VERSION} {sentences}"
        graph = kept_graph("encoders", part_files(folder), what, lambda: build_bert(folder, settings, sentences))
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
