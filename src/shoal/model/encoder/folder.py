"""A text encoder in a folder: its tokenizer, its settings, and its graph, which is given or built once."""

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
"""Settings of an encoder that was not trained for embeddings. Source: sentence-transformers, for folders without
`modules.json`."""
_VERSION = 1
"""Version of the builders of graphs. Raise it when they change."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderFolder:
    """Content of a folder."""

    graph: Path
    """The ONNX file, from token ids and mask to vectors or scores."""
    rows: TextRows
    sentences: SentenceSettings
    compares: bool
    """Whether the model scores pairs of texts, instead of computing vectors of single ones."""


def open_encoder(folder: Path) -> EncoderFolder:
    """Read the settings, and build the graph if there is none. Raises ModelLoadError."""
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
    """Most tokens of a text, if the settings say it. RoBERTa's table has additional rows for padding."""
    size = config.get("max_position_embeddings")
    if type(size) is not int or not 0 < size < LONGEST:
        return None
    pad_id = config.get("pad_token_id")
    is_shifted = config.get("model_type") in ("roberta", "xlm-roberta", "camembert", "mpnet")
    return size - (pad_id + 1 if is_shifted and type(pad_id) is int else 0)
