"""The tensors of a GGUF file, each made of matrices or vectors of a source: experts are stacked, some matrices
fused."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from shoal.arrays import F32, I64
from shoal.errors import ModelLoadError
from shoal.model.decoder_config import DecoderConfig
from shoal.model.formats.gguf.architectures import ARCHITECTURES, FALCON_40B_NAMES
from shoal.model.formats.gguf.file import BIAS_NAMES, EXPERT_NAMES, LAYER_NAMES, TOP_NAMES
from shoal.model.formats.gguf.layers.recurrent import FLAT, RECURRENT_NAMES
from shoal.model.formats.gguf.layers.variants import STREAM_TENSORS
from shoal.model.formats.gguf.writing.encode import MatrixPart
from shoal.model.formats.gguf.writing.recurrent import joined_names, num_turns, turned
from shoal.model.formats.gguf.writing.variants import matrix_shape, table_rows, unused_keys
from shoal.model.formats.tensor_check import expected_shapes
from shoal.model.formats.tensor_part import half_split_order, rotating_heads
from shoal.model.recurrence.mamba import MambaConfig

Shape = tuple[int, ...]
_QKV, _GATE_UP = {"attn_qkv": ("q", "k", "v")}, {"ffn_up": ("gate", "up")}
_FUSED = {
    "phi3": _QKV | _GATE_UP,
    **dict.fromkeys(("chatglm", "glm4"), _GATE_UP),
    **dict.fromkeys(("gptneox", "gpt2", "falcon"), _QKV),
}
"""Matrices that an architecture stores below each other in one tensor, and their biases. Source: llama.cpp,
src/models"""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutTensor:
    """One tensor of the file, whose matrices lie below each other or are those of a layer's experts."""

    name: str
    parts: tuple[MatrixPart, ...]
    """Empty for a tensor that does not come from the source."""
    shape: Shape
    is_vector: bool
    order_N: I64 | None = None
    """Order of all rows together; None: the parts lie below each other."""
    values: F32 | None = None


def out_tensors(config: DecoderConfig, architecture: str) -> Iterator[OutTensor]:
    """All tensors of a model, in the file's order."""
    own = ARCHITECTURES[architecture].names
    names = {**LAYER_NAMES, **BIAS_NAMES, **EXPERT_NAMES, **RECURRENT_NAMES, **own}
    if config.latent is not None and config.latent.query_rank:
        names["q"] = "attn_q_b.weight"
    if architecture == "falcon" and not config.shares_norm:
        names |= FALCON_40B_NAMES
    fused = {**_FUSED.get(architecture, {}), **joined_names(config, architecture)}
    stacks: dict[str, list[tuple[str, Shape]]] = {}
    shapes = dict(expected_shapes(config))

    def tensor_of(name: str) -> str:
        if "." not in name:
            return own.get(name, TOP_NAMES[name])
        kind, number, leaf = name.split(".", 2)
        return STREAM_TENSORS[leaf] if kind == "streams" else f"blk.{number}.{_layer_tensor(leaf, names, fused)}"

    for name, shape in shapes.items():
        if name != "head" or not config.tied_embeddings:
            stacks.setdefault(tensor_of(name), []).append((name, shape))
    stacks |= {tensor_of(name): [(filling, shapes[filling])] for name, filling in unused_keys(config)}
    places = {leaf: place for leaves in fused.values() for place, leaf in enumerate(leaves)}
    for tensor, members in stacks.items():
        members.sort(key=lambda member: places.get(member[0].rpartition(".")[2].removesuffix("_bias"), 0))
        yield _joined(config, architecture, tensor, members)


def _layer_tensor(leaf: str, names: dict[str, str], fused: dict[str, tuple[str, ...]]) -> str:
    if leaf.startswith("experts."):
        part = leaf.split(".")[2]
        suffix = "bias" if part.endswith("_bias") else "weight"
        return f"ffn_{part.removesuffix('_bias')}_exps.{suffix}"
    if leaf.startswith("heads."):
        return names[leaf.split(".")[2]]
    for tensor, leaves in fused.items():
        if leaf in leaves:
            return f"{tensor}.weight"
        if leaf.removesuffix("_bias") in leaves and leaf.endswith("_bias"):
            return f"{tensor}.bias"
    if leaf not in names:
        raise ModelLoadError(f"GGUF has no tensor for {leaf!r} of a layer of this architecture")
    return names[leaf]


def _joined(config: DecoderConfig, architecture: str, tensor: str, members: list[tuple[str, Shape]]) -> OutTensor:
    first = members[0][1]
    parts = tuple(_part(config, architecture, name) for name, _ in members)
    if len(first) == 3:  # taps of convolutions, which the file has without the axis of 1
        return OutTensor(name=tensor, parts=parts, shape=(sum(one[0] for _, one in members), first[2]), is_vector=True)
    if len(first) == 1 or members[0][0].endswith("shared_router"):  # the file has a matrix of one row as a vector
        shape = (len(members), first[-1]) if ".experts." in members[0][0] else (sum(one[-1] for _, one in members),)
        if config.parts_qk_norm and members[0][0].endswith(("q_norm", "k_norm")):
            shape = (first[-1] // config.head_dim, config.head_dim)
        if isinstance(config.recurrence, MambaConfig) and tensor.endswith(FLAT):
            shape = (config.recurrence.num_groups, -1) if tensor.endswith("norm.weight") else (-1, 1)
            shape = np.empty(first).reshape(shape).shape
        shape = matrix_shape(config, tensor, shape)
        return OutTensor(name=tensor, parts=parts, shape=shape, is_vector=True)
    if ".experts." in members[0][0] or ".heads." in members[0][0] or members[0][0].startswith("streams."):
        return OutTensor(name=tensor, parts=parts, shape=(len(members), *first), is_vector=False)
    rows = sum(
        shape[0] if part.order_N is None else len(part.order_N) for part, (_, shape) in zip(parts, members, strict=True)
    )
    turns = num_turns(config, tensor)
    order_N = np.arange(rows).reshape(len(parts), turns, -1).swapaxes(0, 1).reshape(-1) if turns > 1 else None
    return OutTensor(name=tensor, parts=parts, shape=(rows, first[1]), is_vector=False, order_N=order_N)


def _part(config: DecoderConfig, architecture: str, name: str) -> MatrixPart:
    rows_N, columns_K = turned(config, architecture, name.rpartition(".")[2])
    order_N = _order(config, architecture, name) if rows_N is None else rows_N
    return MatrixPart(name=name, order_N=order_N, columns_K=columns_K)


def _order(config: DecoderConfig, architecture: str, name: str) -> I64 | None:
    """The order of rows: q and k in interleaved rotary order, if the architecture uses it, and the table of layer
    inputs."""
    if name == "layer_embedding":
        return table_rows(config)
    heads = rotating_heads(config, name.rpartition(".")[2])
    if not ARCHITECTURES[architecture].is_interleaved or not heads:
        return None
    return np.argsort(half_split_order(heads, config.head_dim, config.rope.rotary_dim))
