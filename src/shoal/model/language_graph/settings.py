"""The settings beside a language model's graph (context, vocabulary, kind), and the memory that the model takes.

Source: transformers' config.json; onnxruntime-genai's genai_config.json.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from shoal.core.plan.language import Block
from shoal.errors import ModelLoadError
from shoal.model.decoder_config import DecoderConfig
from shoal.model.formats.model_file import GENAI_FILE, read_json
from shoal.model.language_graph.detect import settings_file
from shoal.model.language_graph.form import LanguageGraphForm
from shoal.model.layer_config.attention import RopeConfig

EXTRA_COPIES = 3
"""Most copies of the cache besides the pool: what is kept for the next step, the past and the results of a run."""
_LOGITS_BYTES = 64 << 20
"""Bytes of the logits of one run of a prompt's tokens. A judgment: prompts with small vocabularies need few runs, and
compared with large weights it is little."""
_RUNTIME_BYTES = 48 << 20
"""Anonymous memory of a process with ONNX Runtime, without its model. Source: measured over three tiny models, 45 to 47
MB; tests/integration/families/test_language_graphs.py checks it."""
_CONTEXT_KEYS = ("max_position_embeddings", "n_positions", "max_sequence_length", "seq_length", "n_ctx")
_LAYER_FLOATS = 16
"""Numbers that a layer works on for each token, as a multiple of the hidden size. A judgment, about as many as gate and
up of an MLP."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LanguageSettings:
    """Content of a settings file."""

    family: str
    max_context: int
    vocab_size: int | None
    """None: the file does not give it."""
    num_heads: int | None
    """Heads of keys and values; None: the file does not give it."""
    head_dim: int | None


def read_language_settings(graph: Path) -> LanguageSettings:
    """The settings beside an ONNX file. Raises ModelLoadError if there are none, or if they are invalid."""
    path = settings_file(graph)
    if path is None:
        raise ModelLoadError(
            f"{graph}: there is neither {GENAI_FILE} nor config.json beside it, which would say how long its context is"
        )
    whole = read_json(path)
    is_genai = path.name == GENAI_FILE
    found = _inside(whole, "model") if is_genai else whole | _inside(whole, "text_config")
    layers = _inside(found, "decoder") if is_genai else found

    def number(*keys: str, where: Mapping[str, Any] = layers) -> int | None:
        return _number(path, where, keys)

    max_context = number("context_length", *_CONTEXT_KEYS, where=found)
    if max_context is None:
        raise ModelLoadError(f"{path}: {_CONTEXT_KEYS[0]}, the longest text in tokens, is missing")
    num_heads, width = number("num_attention_heads", "n_head"), number("hidden_size", "n_embd")
    return LanguageSettings(
        family=str(found.get("model_type") or found.get("type") or "ONNX graph")[:64],
        max_context=max_context,
        vocab_size=number("vocab_size", where=found),
        num_heads=number("num_key_value_heads") or num_heads,
        head_dim=number("head_size", "head_dim") or (width // num_heads if width and num_heads else None),
    )


def decoder_config(path: Path, settings: LanguageSettings, form: LanguageGraphForm) -> DecoderConfig:
    """A `DecoderConfig` as the rest of Shoal expects it; what is known only inside the graph is 0 or empty.

    Args:
        path: of the graph.
        settings: beside it.
        form: of its inputs.

    Raises:
        ModelLoadError: neither settings nor form give the size of the vocabulary.
    """
    vocab_size = form.vocab_size or settings.vocab_size
    if vocab_size is None:
        raise ModelLoadError(f"{path}: neither the graph nor the settings beside it say vocab_size")
    first = form.caches[0]
    return DecoderConfig(
        family=settings.family,
        num_layers=form.num_layers,
        hidden_size=first.num_heads * first.dim,
        num_heads=first.num_heads,
        num_kv_heads=first.num_heads,
        head_dim=first.dim,
        intermediate_size=1,
        vocab_size=vocab_size,
        max_context=settings.max_context,
        norm_epsilon=0.0,
        rope=RopeConfig(theta=1.0, rotary_dim=0),
        attention_scale=1.0,
    )


def graph_blocks(form: LanguageGraphForm, weights: int) -> tuple[Block, ...]:
    """The graph as blocks for the planner: its weights are assumed to be those of its layers, in equal parts."""
    num_layers = form.num_layers
    share = weights // num_layers
    ends = [
        Block(name=name, weight_bytes=0, flops_per_token=0.0, kv_bytes_per_token=0, output_bytes_per_token=0)
        for name in ("embedding", "head")
    ]
    layers = [
        Block(
            name=f"layer.{layer}",
            weight_bytes=share + (weights - share * num_layers if layer == 0 else 0),
            flops_per_token=0.5 * share,
            kv_bytes_per_token=(1 + EXTRA_COPIES)
            * sum(one.num_heads * one.dim * np.dtype(one.dtype).itemsize for one in form.caches[2 * layer :][:2]),
            output_bytes_per_token=0,
        )
        for layer in range(num_layers)
    ]
    return (ends[0], *layers, ends[1])


def graph_process_bytes(config: DecoderConfig, *, max_step_tokens: int) -> int:
    """Bytes of a worker besides weights and caches: ONNX Runtime, and the working memory of its longest run."""
    num_tokens = min(max_step_tokens, max_run_tokens(config.vocab_size))
    return _RUNTIME_BYTES + 4 * num_tokens * (config.vocab_size + _LAYER_FLOATS * config.hidden_size)


def max_run_tokens(vocab_size: int) -> int:
    """Most tokens of a prompt in one run."""
    return max(16, _LOGITS_BYTES // (4 * vocab_size))


def _inside(settings: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = settings.get(key)
    return value if isinstance(value, dict) else {}


def _number(path: Path, settings: Mapping[str, Any], keys: tuple[str, ...]) -> int | None:
    """The value of the first of these keys that exists. Raises ModelLoadError."""
    key = next((key for key in keys if settings.get(key) is not None), None)
    if key is None:
        return None
    value = settings[key]
    if type(value) is not int or not 0 < value < 1 << 31:
        raise ModelLoadError(f"{path}: {key} is {value!r:.100}, not a whole number above 0")
    return value
