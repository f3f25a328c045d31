"""A GGUF file as a WeightSource: names, fused tensors and rotary order, on top of the header and the block formats."""

from __future__ import annotations

import re
from dataclasses import replace
from math import prod
from pathlib import Path

import numpy as np

from shoal.arrays import F32, I64, U8
from shoal.errors import ModelLoadError
from shoal.model.decoder_config import DecoderConfig
from shoal.model.formats.gguf.architectures import ARCHITECTURES, FALCON_40B_NAMES
from shoal.model.formats.gguf.blocks import (
    SUPPORTED,
    Form,
    check_columns,
    choose_form,
    columns_to_weight,
    form_bytes,
    to_dense,
)
from shoal.model.formats.gguf.config import config_from_gguf
from shoal.model.formats.gguf.layers.recurrent import CONVOLUTIONS, FLAT, RECURRENT_NAMES, recurrent_part
from shoal.model.formats.gguf.layers.variants import FLAT_NAMES, VARIANT_TOP_NAMES, stream_part
from shoal.model.formats.gguf.packing import keeps_values, packing_of
from shoal.model.formats.gguf.parts import GgufParts
from shoal.model.formats.gguf.settings.rope import ROPE_TENSORS
from shoal.model.formats.tensor_check import check_tensors
from shoal.model.formats.tensor_part import Naming, TensorPart, rotating_heads
from shoal.model.weights import VOCABULARY, Packing, Precision, Range, RawRows, Weight, own_precision, resolve_range

TOP_NAMES = {
    "embedding": "token_embd.weight",
    "positions": "position_embd.weight",
    "final_norm": "output_norm.weight",
    "final_norm_bias": "output_norm.bias",
    "head": "output.weight",
    "head_bias": "output.bias",
    **VARIANT_TOP_NAMES,
}
LAYER_NAMES = {
    "attn_norm": "attn_norm.weight",
    "q": "attn_q.weight",
    "k": "attn_k.weight",
    "v": "attn_v.weight",
    "q_norm": "attn_q_norm.weight",
    "k_norm": "attn_k_norm.weight",
    "o": "attn_output.weight",
    "attn_norm_bias": "attn_norm.bias",
    "post_attn_norm": "post_attention_norm.weight",
    "mlp_norm": "ffn_norm.weight",
    "mlp_norm_bias": "ffn_norm.bias",
    "gate": "ffn_gate.weight",
    "up": "ffn_up.weight",
    "down": "ffn_down.weight",
    "post_mlp_norm": "post_ffw_norm.weight",
}
EXPERT_NAMES = {
    "router": "ffn_gate_inp.weight",
    "router_bias": "ffn_gate_inp.bias",
    "selection_bias": "exp_probs_b.bias",
    "shared_gate": "ffn_gate_shexp.weight",
    "shared_up": "ffn_up_shexp.weight",
    "shared_down": "ffn_down_shexp.weight",
    "shared_router": "ffn_gate_inp_shexp.weight",
    "sinks": "attn_sinks.weight",
}
_VECTORS = (LAYER_NAMES["q_norm"], LAYER_NAMES["k_norm"], EXPERT_NAMES["selection_bias"], *FLAT, *FLAT_NAMES)
"""Ends of the names of tensors whose axes are read as one."""
_LAYER = re.compile(r"blk\.(\d+)\.")
_KEYS = re.compile(r"blk\.(\d+)\.attn_(k|v|k_norm)\.weight")
"""Tensors that are not read in a layer that attends over another layer's keys."""
BIAS_NAMES = {
    f"{name}_bias": LAYER_NAMES[name].replace(".weight", ".bias") for name in ("q", "k", "v", "o", "gate", "up", "down")
}
NEEDLESS = re.compile(r"blk\.\d+\.attn_rot_embd\.weight|cls\.output\.weight")
"""A table of the rotary embedding that old files have besides its settings, and head rows of the tokens that a reranker
ranks with, which such files store twice."""


class GgufFile:
    """The weights of one GGUF model, read from a memory map when they are asked for. Implements `WeightSource`.

    Raises:
        ModelLoadError: a file is broken, its architecture or the kind of one of its tensors is not supported, or its
            tensors are not those of the model that the metadata describe.
    """

    naming: Naming = "gguf"

    def __init__(self, path: Path) -> None:
        self._header = GgufParts(path)
        self._config = config_from_gguf(self._header)
        shapes = {name: _matrix_shape(name, tensor.shape) for name, tensor in self._header.tensors.items()}
        self._architecture = ARCHITECTURES[self._config.family]
        self._names = {
            **LAYER_NAMES,
            **BIAS_NAMES,
            **EXPERT_NAMES,
            **RECURRENT_NAMES,
            **self._architecture.names,
        }
        if "blk.0.attn_q_b.weight" in self._header.tensors:
            self._names["q"] = "attn_q_b.weight"
        if "blk.0.attn_norm_2.weight" in self._header.tensors:
            self._names |= FALCON_40B_NAMES
        used = check_tensors(path, self._config, shape_of=shapes, locate=self.locate, is_needless=self._is_needless)
        for name in used:
            kind = self._header.tensors[name].kind
            if kind not in SUPPORTED:
                known = ", ".join(sorted(kind.name for kind in SUPPORTED))
                raise ModelLoadError(f"{path}: {name} has quantization {kind.name}; supported: {known}")

    @property
    def config(self) -> DecoderConfig:
        return self._config

    def matrix(
        self, name: str, precision: Precision, *, rows: Range | None = None, columns: Range | None = None
    ) -> Weight:
        """A matrix at that precision, or a part of it; `auto` keeps the file's own blocks. See `WeightSource`."""
        part = self.locate(name).cut(rows)
        tensor = self._header.tensors[part.tensor]
        resolved = resolve_range(columns, tensor.shape[-1])
        return columns_to_weight(self._rows(part), tensor.kind, self._form(name, part, precision), resolved)

    def vector(self, name: str, *, span: Range | None = None) -> F32:
        """A norm weight or bias in fp32, a copy. See `WeightSource`."""
        part = self.locate(name).cut(span)
        tensor = self._header.tensors[part.tensor]
        shape = _matrix_shape(part.tensor, tensor.shape)
        values = to_dense(self._header.rows(part.tensor), tensor.kind)
        rows = values.reshape(shape[0], shape[2]) if len(shape) == 3 else values.reshape(-1)  # taps, or a vector
        return rows[part.numbers(self._config.rope.rotary_dim)].reshape(-1).astype(np.float32)

    def matrix_bytes(
        self, name: str, precision: Precision, *, rows: Range | None = None, columns: Range | None = None
    ) -> int:
        """The value that `matrix(...).num_bytes` would have, from the header alone."""
        part = self.locate(name).cut(rows)
        tensor = self._header.tensors[part.tensor]
        form = self._form(name, part, precision)
        first, last = resolve_range(columns, tensor.shape[-1])
        check_columns(form, (first, last))
        return form_bytes(form, tensor.kind, part.num_rows, last - first)

    def packing(
        self, name: str, precision: Precision, *, rows: Range | None = None, columns: Range | None = None
    ) -> Packing:
        """How the native kernels hold a matrix. See `WeightSource`."""
        part = self.locate(name).cut(rows)
        tensor = self._header.tensors[part.tensor]
        resolved = resolve_range(columns, tensor.shape[-1])
        return packing_of(tensor.kind, self._form(name, part, precision), part.num_rows, resolved)

    def raw_rows(
        self, name: str, precision: Precision, *, rows: Range | None = None, columns: Range | None = None
    ) -> RawRows | None:
        """A matrix as it lies in the file, if its values are kept. See `WeightSource`."""
        part = self.locate(name).cut(rows)
        tensor = self._header.tensors[part.tensor]
        if not keeps_values(tensor.kind, self._form(name, part, precision)):
            return None
        start, stop, order_N = self._places(part)
        return RawRows(
            kind=tensor.kind,
            rows_NB=self._header.rows(part.tensor, start, stop),
            order_N=None if order_N is None else order_N.astype(np.int32),
            columns=resolve_range(columns, tensor.shape[-1]),
        )

    def release_pages(self) -> None:
        """See `WeightSource`."""
        self._header.release_pages()

    def _form(self, name: str, part: TensorPart, precision: Precision) -> Form:
        tensor, vocabulary = self._header.tensors[part.tensor], name in VOCABULARY
        return choose_form(
            tensor.kind, own_precision(name, precision), num_columns=tensor.shape[-1], is_vocabulary=vocabulary
        )

    def _rows(self, part: TensorPart) -> U8:
        start, stop, order_N = self._places(part)
        rows_NB = self._header.rows(part.tensor, start, stop)
        return rows_NB if order_N is None else rows_NB[order_N]

    def _places(self, part: TensorPart) -> tuple[int, int, I64 | None]:
        """The span of tensor rows that contains a part, and which of them are its rows; None: all of them in order."""
        numbers = part.numbers(self._config.rope.rotary_dim)
        if isinstance(numbers, slice):
            return part.start, part.stop, None
        if not numbers.size:
            return part.start, part.start, None
        start = int(numbers.min())
        return start, int(numbers.max()) + 1, numbers - start

    def locate(self, name: str) -> TensorPart:
        """The rows of a tensor that hold a matrix or vector, given its name in `WeightSource`."""
        if name == "head" and self._config.tied_embeddings:
            name = "embedding"
        if name in TOP_NAMES:
            return self._whole(self._architecture.names.get(name, TOP_NAMES[name]))
        if name.startswith("streams."):
            part = stream_part(self._config, name)
            self._whole(part.tensor)
            return part
        _, layer, leaf = name.split(".", 2)
        prefix = f"blk.{layer}."
        if leaf.startswith("experts."):
            _, expert, leaf = leaf.split(".")
            return self._expert_part(prefix, leaf, int(expert))
        if leaf.startswith("heads."):
            _, head, leaf = leaf.split(".")
            return self._head_part(prefix, leaf, int(head))
        return self._fused_part(prefix, leaf) or self._whole(prefix + self._names[leaf], leaf)

    def _expert_part(self, prefix: str, leaf: str, expert: int) -> TensorPart:
        """The part of one expert: all experts of a layer lie in one tensor."""
        experts, part = self._config.experts, leaf.removesuffix("_bias")
        assert experts is not None
        tensor = f"{prefix}ffn_{part}_exps.{'weight' if leaf == part else 'bias'}"
        fused = f"{prefix}ffn_gate_up_exps.weight"
        if part in ("gate", "up") and fused in self._header.tensors:
            start = (2 * expert + (part == "up")) * experts.columns
            return TensorPart(tensor=fused, start=start, stop=start + experts.columns, stack=experts.num_experts)
        self._whole(tensor)
        num_rows = self._config.hidden_size if part == "down" else experts.columns
        return TensorPart(
            tensor=tensor, start=expert * num_rows, stop=(expert + 1) * num_rows, stack=experts.num_experts
        )

    def _head_part(self, prefix: str, leaf: str, head: int) -> TensorPart:
        """The part of one head: one tensor has all heads' matrices into the latent space, another those out of it."""
        latent, tensor = self._config.latent, prefix + self._names[leaf]
        assert latent is not None
        self._whole(tensor)
        num_rows = latent.latent_dim if leaf == "k_up" else latent.value_dim
        return TensorPart(
            tensor=tensor, start=head * num_rows, stop=(head + 1) * num_rows, stack=self._config.num_heads
        )

    def _whole(self, tensor: str, leaf: str = "") -> TensorPart:
        if tensor not in self._header.tensors:
            raise ModelLoadError(f"{self._header.path}: there is no tensor {tensor!r}")
        num_rows = _matrix_shape(tensor, self._header.tensors[tensor].shape)[0]
        return TensorPart(tensor=tensor, start=0, stop=num_rows, heads=self._interleaved_heads(leaf))

    def _interleaved_heads(self, leaf: str) -> int:
        if not self._architecture.is_interleaved:
            return 0
        return rotating_heads(self._config, leaf)

    def _fused_part(self, prefix: str, leaf: str) -> TensorPart | None:
        """The part of a fused tensor: of recurrent layers; q, k and v below each other; or gate above up (Phi-3)."""
        config, tensors = self._config, self._header.tensors
        own = recurrent_part(config, leaf)
        if own is not None:
            self._whole(prefix + own.tensor)
            return replace(own, tensor=prefix + own.tensor)
        part = leaf.removesuffix("_bias")
        suffix = "weight" if leaf == part else "bias"
        attention, mlp = f"{prefix}attn_qkv.{suffix}", f"{prefix}ffn_up.{suffix}"
        if part in ("q", "k", "v") and attention in tensors:
            q_rows, kv_rows = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
            start = {"q": 0, "k": q_rows, "v": q_rows + kv_rows}[part]
            stop = start + (q_rows if part == "q" else kv_rows)
            return TensorPart(tensor=attention, start=start, stop=stop, heads=self._interleaved_heads(leaf))
        has_gate = not config.gated_mlp or f"{prefix}ffn_gate.{suffix}" in tensors
        if part in ("gate", "up") and mlp in tensors and not has_gate:
            start = config.intermediate_size if part == "up" else 0
            return TensorPart(tensor=mlp, start=start, stop=start + config.intermediate_size)
        return None

    def _is_needless(self, tensor: str) -> bool:
        """Whether the model is computed without a tensor, such as those of draft layers."""
        layer = _LAYER.match(tensor)
        is_draft = layer is not None and self._config.num_layers <= int(layer[1])
        keys = _KEYS.fullmatch(tensor)
        is_unread = keys is not None and not is_draft and self._config.kv_source(int(keys[1])) != int(keys[1])
        has_drafts = self._header.metadata.get(f"{self._config.family}.nextn_predict_layers", 0) != 0
        return (
            is_unread or (is_draft and has_drafts) or tensor in ROPE_TENSORS or NEEDLESS.fullmatch(tensor) is not None
        )


def _matrix_shape(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The matrix shape of a tensor. The router of a shared expert is a matrix of one row, norms of heads are vectors,
    and the taps of a convolution get an axis of 1 in the middle.

    Some converters write an axis of 1 before the others, which llama.cpp ignores; so routers and selection biases are
    read with and without it.
    """
    if name.endswith(_VECTORS):
        return (prod(shape),)
    if name.endswith(CONVOLUTIONS) and len(shape) == 2:
        return (shape[0], 1, shape[1])
    return (1, *shape) if name.endswith(EXPERT_NAMES["shared_router"]) and len(shape) == 1 else shape
