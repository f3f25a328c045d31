"""A GGUF file as a WeightSource: names, fused tensors and rotary order, on top of the header and the block formats."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from shoal.errors import ModelLoadError
from shoal.model.decoder_config import DecoderConfig
from shoal.model.formats.gguf_blocks import (
    SUPPORTED,
    Form,
    check_columns,
    choose_form,
    columns_to_weight,
    form_bytes,
    to_dense,
)
from shoal.model.formats.gguf_config import config_from_gguf
from shoal.model.formats.gguf_header import GgufHeader, TensorInfo
from shoal.model.weights import F32, U8, Precision, Range, Weight, resolve_range

TOP_NAMES = {"embedding": "token_embd.weight", "final_norm": "output_norm.weight", "head": "output.weight"}
LAYER_NAMES = {
    "attn_norm": "attn_norm.weight",
    "q": "attn_q.weight",
    "k": "attn_k.weight",
    "v": "attn_v.weight",
    "q_bias": "attn_q.bias",
    "k_bias": "attn_k.bias",
    "v_bias": "attn_v.bias",
    "q_norm": "attn_q_norm.weight",
    "k_norm": "attn_k_norm.weight",
    "o": "attn_output.weight",
    "post_attn_norm": "post_attention_norm.weight",
    "mlp_norm": "ffn_norm.weight",
    "gate": "ffn_gate.weight",
    "up": "ffn_up.weight",
    "down": "ffn_down.weight",
    "post_mlp_norm": "post_ffw_norm.weight",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """Some rows of a tensor. `heads` > 0: they are that many heads in interleaved rotary order."""

    tensor: str
    start: int
    stop: int
    heads: int = 0


class GgufFile:
    """Weights of one GGUF file, read from a memory map when asked for. Implements `WeightSource`.

    Raises:
        ModelLoadError: the file is broken, or its architecture or one of its tensor kinds is not supported.
    """

    def __init__(self, path: Path) -> None:
        self._header = GgufHeader(path)
        self._config = config_from_gguf(self._header)
        for name, tensor in self._header.tensors.items():
            if tensor.kind not in SUPPORTED:
                known = ", ".join(sorted(kind.name for kind in SUPPORTED))
                raise ModelLoadError(f"{path}: {name} has quantization {tensor.kind.name}; supported: {known}")

    @property
    def config(self) -> DecoderConfig:
        return self._config

    def matrix(
        self, name: str, precision: Precision, *, rows: Range | None = None, columns: Range | None = None
    ) -> Weight:
        """A matrix at that precision, or a part of it; `auto` keeps the file's own blocks. See `WeightSource`."""
        part = self._cut(self._locate(name), rows)
        tensor = self._header.tensors[part.tensor]
        resolved = resolve_range(columns, tensor.shape[-1])
        return columns_to_weight(self._rows(part), tensor.kind, self._form(name, part, precision), resolved)

    def vector(self, name: str, *, span: Range | None = None) -> F32:
        """A norm weight or bias in fp32, a copy. See `WeightSource`."""
        part = self._cut(self._locate(name), span)
        tensor = self._header.tensors[part.tensor]
        values = to_dense(self._header.rows(part.tensor), tensor.kind).reshape(-1)[part.start : part.stop]
        if part.heads:
            values = values[self._half_split_order(part.heads)]
        return values.astype(np.float32)

    def matrix_bytes(
        self, name: str, precision: Precision, *, rows: Range | None = None, columns: Range | None = None
    ) -> int:
        """What `matrix(...).num_bytes` would be, from the header alone."""
        part = self._cut(self._locate(name), rows)
        tensor = self._header.tensors[part.tensor]
        form = self._form(name, part, precision)
        first, last = resolve_range(columns, tensor.shape[-1])
        check_columns(form, (first, last))
        return form_bytes(form, tensor.kind, part.stop - part.start, last - first)

    def _cut(self, part: _Part, rows: Range | None) -> _Part:
        """Some rows of a part; whole heads, where their order is to be changed."""
        first, last = resolve_range(rows, part.stop - part.start)
        head_dim = self._config.head_dim
        if part.heads and (first % head_dim or last % head_dim):
            raise ValueError(f"rows [{first}, {last}) of {part.tensor} cut a head of {head_dim}")
        heads = (last - first) // head_dim if part.heads else 0
        return replace(part, start=part.start + first, stop=part.start + last, heads=heads)

    def _form(self, name: str, part: _Part, precision: Precision) -> Form:
        tensor, vocabulary = self._header.tensors[part.tensor], name in ("embedding", "head")
        return choose_form(tensor.kind, precision, num_columns=tensor.shape[-1], is_vocabulary=vocabulary)

    def _rows(self, part: _Part) -> U8:
        rows = self._header.rows(part.tensor, part.start, part.stop)
        return rows[self._half_split_order(part.heads)] if part.heads else rows

    def _half_split_order(self, num_heads: int) -> np.ndarray:
        """Row numbers that turn rotating pairs (2i, 2i+1) of every head into (i, i + rotary_dim / 2).

        Source: llama.cpp, convert_hf_to_gguf.py, LlamaModel.permute, of which this is the inverse.
        """
        head_dim, rotary_dim = self._config.head_dim, self._config.rope.rotary_dim
        order = np.arange(head_dim)
        order[:rotary_dim] = np.concatenate([np.arange(0, rotary_dim, 2), np.arange(1, rotary_dim, 2)])
        return (np.arange(num_heads)[:, None] * head_dim + order).reshape(-1)

    def _locate(self, name: str) -> _Part:
        """The tensor, and the rows of it, that hold a matrix or vector of the graph builder's naming."""
        if name == "head" and self._config.tied_embeddings:
            name = "embedding"
        prefix, leaf = "", name
        wanted = TOP_NAMES.get(name)
        if wanted is None:
            _, layer, leaf = name.split(".")
            prefix = f"blk.{layer}."
            wanted = prefix + LAYER_NAMES[leaf]
        part = self._fused_part(prefix, leaf)
        if part is None:
            heads = self._interleaved_heads(leaf)
            length = self._length(wanted)
            part = _Part(tensor=wanted, start=0, stop=length, heads=heads)
        if part.stop > self._length(part.tensor) or part.heads * self._config.head_dim not in (0, part.stop):
            raise ModelLoadError(
                f"{self._header.path}: {part.tensor} has {self._length(part.tensor)} rows, which does not fit the "
                f"metadata's number of heads or columns"
            )
        return part

    def _length(self, name: str) -> int:
        """Rows of a matrix, items of a vector."""
        tensor = self._tensor(name)
        return tensor.shape[0] if len(tensor.shape) == 1 else tensor.num_rows

    def _interleaved_heads(self, leaf: str) -> int:
        if self._config.family != "llama":
            return 0
        heads = {"q": self._config.num_heads, "k": self._config.num_kv_heads}
        return heads.get(leaf.removesuffix("_bias"), 0)

    def _fused_part(self, prefix: str, leaf: str) -> _Part | None:
        """Rows of a fused tensor: q, k, v under each other (Phi-3), gate above up."""
        config = self._config
        attention, mlp = f"{prefix}attn_qkv.weight", f"{prefix}ffn_up.weight"
        if leaf in ("q", "k", "v") and attention in self._header.tensors:
            q_rows, kv_rows = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
            start = {"q": 0, "k": q_rows, "v": q_rows + kv_rows}[leaf]
            return _Part(tensor=attention, start=start, stop=start + (q_rows if leaf == "q" else kv_rows))
        if leaf in ("gate", "up") and f"{prefix}ffn_gate.weight" not in self._header.tensors:
            self._tensor(mlp)
            start = config.intermediate_size if leaf == "up" else 0
            return _Part(tensor=mlp, start=start, stop=start + config.intermediate_size)
        return None

    def _tensor(self, name: str) -> TensorInfo:
        if name not in self._header.tensors:
            raise ModelLoadError(f"{self._header.path}: there is no tensor {name!r}")
        return self._header.tensors[name]
