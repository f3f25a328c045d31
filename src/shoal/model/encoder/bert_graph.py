"""A BERT encoder from a Hugging Face directory as an ONNX graph: from token ids to a vector or a score for each text.

Sources: BERT, arXiv 1810.04805, section 3; RoBERTa, arXiv 1907.11692 (positions start after the padding's);
sentence-transformers, arXiv 1908.10084, section 3 (pooling).

Shapes: B texts, S tokens of the longest, H hidden size.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from shoal.errors import ModelLoadError
from shoal.model.decoder.onnx.graph_builder import GraphBuilder
from shoal.model.encoder.detect import BERT_TYPES
from shoal.model.encoder.sentence_settings import SentenceSettings
from shoal.model.formats.huggingface.part_tensors import PartTensors

VECTORS, SCORES = "sentence_embedding", "logits"
"""Outputs: [B, H], or [B, 1] for a model that compares two texts."""
_ACTIVATIONS: Mapping[str, Literal["gelu", "gelu_tanh"]] = {
    "gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh",
}  # fmt: skip
_MASKED = np.float32(-1e9)
"""Added to the scores of padding, so that exp gives 0."""
_WORDS = "embeddings.word_embeddings.weight"


@dataclass(frozen=True, slots=True, kw_only=True)
class BertSettings:
    """The settings in config.json."""

    kind: str
    num_layers: int
    hidden_size: int
    num_heads: int
    norm_epsilon: float
    activation: Literal["gelu", "gelu_tanh"]
    max_positions: int
    """Most tokens of a text."""
    first_position: int
    """Entry of the table of positions at which a text begins."""
    pad_id: int
    compares: bool
    """Whether the model scores pairs of texts."""
    has_types: bool
    """Whether the tokens of the two texts have different types."""


def bert_settings(path: Path, config: Mapping[str, Any]) -> BertSettings:
    """Check a config.json. Raises ModelLoadError for settings that are not supported."""
    kind = str(config.get("model_type"))
    if kind not in BERT_TYPES:
        raise ModelLoadError(
            f"{path}: {kind[:100]!r} is not one of {', '.join(BERT_TYPES)}: export the model as onnx/model.onnx"
        )
    names = ("num_hidden_layers", "hidden_size", "num_attention_heads", "max_position_embeddings")
    sizes = {name: config.get(name) for name in names}
    if wrong := [name for name, size in sizes.items() if type(size) is not int or not 0 < size < 1 << 20]:
        raise ModelLoadError(f"{path}: {wrong[0]} is {sizes[wrong[0]]!r:.100}")
    layers, hidden, heads, positions = (int(sizes[name] or 0) for name in names)
    activation = str(config.get("hidden_act", "gelu"))
    if hidden % heads or activation not in _ACTIVATIONS:
        raise ModelLoadError(f"{path}: {heads} heads of {hidden} columns with {activation[:100]!r} are not supported")
    if config.get("position_embedding_type", "absolute") != "absolute":
        raise ModelLoadError(f"{path}: only absolute positions are supported")
    architecture = " ".join(map(str, config.get("architectures") or ()))
    compares = "ForSequenceClassification" in architecture
    labels = config.get("id2label")
    if compares and len(labels if isinstance(labels, dict) else ()) != 1:
        raise ModelLoadError(
            f"{path}: models that compare texts are supported with one label, not with {labels!r:.100}"
        )
    pad_id = config.get("pad_token_id")
    pad_id = pad_id if type(pad_id) is int and pad_id >= 0 else 0
    first = 0 if kind == "bert" else pad_id + 1
    return BertSettings(
        kind=kind,
        num_layers=layers,
        hidden_size=hidden,
        num_heads=heads,
        norm_epsilon=float(config.get("layer_norm_eps", 1e-12)),
        activation=_ACTIVATIONS[activation],
        max_positions=positions - first,
        first_position=first,
        pad_id=pad_id,
        compares=compares,
        has_types=compares and kind == "bert",
    )


def build_bert(folder: Path, settings: BertSettings, sentences: SentenceSettings) -> bytes:
    """Build the ONNX model, with its weights inside.

    Inputs: input_ids, attention_mask int64 [B, S], and token_type_ids if a BERT compares texts. Output: VECTORS, pooled
    and scaled as `sentences` says, or SCORES.

    Raises:
        ModelLoadError: a tensor is missing or has the wrong shape, or all are too large for one file.
    """
    return _Bert(folder, settings).build(sentences)


class _Bert:
    def __init__(self, folder: Path, settings: BertSettings) -> None:
        self._folder = folder
        self._settings = settings
        self._graph = GraphBuilder(str(folder))
        self._tensor = PartTensors(folder, _WORDS).read

    def build(self, sentences: SentenceSettings) -> bytes:
        graph, hidden = self._graph, self._settings.hidden_size
        names = ["input_ids", "attention_mask", *(["token_type_ids"] if self._settings.has_types else [])]
        inputs = [graph.declare_input(name, np.int64, ["batch", "sequence"]) for name in names]
        mask_BS = graph.node("Cast", [inputs[1]], to=1)
        x_BSH = self._embed(inputs)
        bias_B11S = self._mask_bias(mask_BS)
        for layer in range(self._settings.num_layers):
            x_BSH = self._layer(x_BSH, bias_B11S, f"encoder.layer.{layer}.")
        if self._settings.compares:
            graph.declare_output(SCORES, self._score(x_BSH), ["batch", 1])
        else:
            graph.declare_output(VECTORS, self._pooled(x_BSH, mask_BS, sentences), ["batch", hidden])
        return graph.serialize()

    def _embed(self, inputs: list[str]) -> str:
        graph, settings = self._graph, self._settings
        hidden = settings.hidden_size
        words = graph.node("Gather", [graph.constant(self._tensor(_WORDS, None, hidden)), inputs[0]])
        rows = settings.max_positions + settings.first_position
        positions_PH = self._tensor("embeddings.position_embeddings.weight", rows, hidden)[settings.first_position :]
        types_KH = self._tensor("embeddings.token_type_embeddings.weight", None, hidden)
        if not settings.has_types:
            positions_PH = positions_PH + types_KH[0]
        ends = graph.node("Shape", [inputs[0]], start=1, end=2)
        zero = graph.constant(np.zeros(1, np.int64))
        positions_SH = graph.node("Slice", [graph.constant(positions_PH), zero, ends])
        x = graph.node("Add", [words, positions_SH])
        if settings.has_types:
            x = graph.node("Add", [x, graph.node("Gather", [graph.constant(types_KH), inputs[2]])])
        return self._norm(x, "embeddings.LayerNorm")

    def _mask_bias(self, mask_BS: str) -> str:
        graph = self._graph
        padding = graph.node("Sub", [graph.constant(np.ones(1, np.float32)), mask_BS])
        bias = graph.scale(padding, float(_MASKED))
        return graph.node("Unsqueeze", [bias, graph.constant(np.array([1, 2], np.int64))])

    def _layer(self, x: str, bias: str, name: str) -> str:
        graph, settings = self._graph, self._settings
        width = settings.hidden_size // settings.num_heads
        heads = graph.constant(np.array([0, 0, settings.num_heads, width], np.int64))
        rows = graph.constant(np.array([0, 0, settings.hidden_size], np.int64))

        def of_heads(part: str, order: list[int]) -> str:
            projected = self._dense(x, f"{name}attention.self.{part}")
            return graph.node("Transpose", [graph.node("Reshape", [projected, heads])], perm=order)

        query = graph.scale(of_heads("query", [0, 2, 1, 3]), width**-0.5)
        scores = graph.node("MatMul", [query, of_heads("key", [0, 2, 3, 1])])
        weights = graph.node("Softmax", [graph.node("Add", [scores, bias])], axis=-1)
        mixed = graph.node("MatMul", [weights, of_heads("value", [0, 2, 1, 3])])
        joined = graph.node("Reshape", [graph.node("Transpose", [mixed], perm=[0, 2, 1, 3]), rows])
        attended = self._dense(joined, f"{name}attention.output.dense")
        x = self._norm(graph.node("Add", [attended, x]), f"{name}attention.output.LayerNorm")
        inner = graph.activation(settings.activation, self._dense(x, f"{name}intermediate.dense"))
        return self._norm(graph.node("Add", [self._dense(inner, f"{name}output.dense"), x]), f"{name}output.LayerNorm")

    def _pooled(self, x_BSH: str, mask_BS: str, sentences: SentenceSettings) -> str:
        graph = self._graph
        mask_BS1 = graph.node("Unsqueeze", [mask_BS, graph.constant(np.array([2], np.int64))])
        texts = graph.constant(np.array([1], np.int64))
        match sentences.pooling:
            case "cls":
                pooled = self._first(x_BSH)
            case "mean":
                total = graph.node("ReduceSum", [graph.node("Mul", [x_BSH, mask_BS1]), texts], keepdims=0)
                pooled = graph.node("Div", [total, graph.node("ReduceSum", [mask_BS1, texts], keepdims=0)])
            case "max":
                padding = graph.node("Sub", [graph.constant(np.ones(1, np.float32)), mask_BS1])
                low = graph.node("Add", [x_BSH, graph.scale(padding, float(_MASKED))])
                pooled = graph.node("ReduceMax", [low, texts], keepdims=0)
            case "last":
                raise ModelLoadError(f"{self._folder}: pooling by the last token is not supported for encoders")
        if not sentences.is_normalized:
            return pooled
        length = graph.node("ReduceL2", [pooled, texts], keepdims=1)
        return graph.node("Div", [pooled, graph.node("Max", [length, graph.constant(np.array(1e-12, np.float32))])])

    def _score(self, x_BSH: str) -> str:
        graph = self._graph
        bert, others = ("pooler.dense", "classifier"), ("classifier.dense", "classifier.out_proj")
        inner, outer = bert if self._settings.kind == "bert" else others
        return self._dense(graph.node("Tanh", [self._dense(self._first(x_BSH), inner)]), outer)

    def _first(self, x_BSH: str) -> str:
        """The vector of the first token."""
        return self._graph.node("Gather", [x_BSH, self._graph.constant(np.array(0, np.int64))], axis=1)

    def _dense(self, x: str, name: str) -> str:
        weight = self._tensor(f"{name}.weight", None, None)
        product = self._graph.node("MatMul", [x, self._graph.constant(np.ascontiguousarray(weight.T))])
        return self._graph.add(product, self._tensor(f"{name}.bias", len(weight)))

    def _norm(self, x: str, name: str) -> str:
        hidden, epsilon = self._settings.hidden_size, self._settings.norm_epsilon
        weight, bias = self._tensor(f"{name}.weight", hidden), self._tensor(f"{name}.bias", hidden)
        return self._graph.center_norm(x, weight, epsilon, bias)
