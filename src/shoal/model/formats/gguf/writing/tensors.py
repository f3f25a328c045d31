"""The tensors of a GGUF file, each made of matrices or vectors of a source: experts stacked, some matrices fused."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from shoal.arrays import F32, I64
from shoal.model.decoder_config import DecoderConfig
from shoal.model.formats.gguf.architectures import ARCHITECTURES, FALCON_40B_NAMES
from shoal.model.formats.gguf.file import BIAS_NAMES, EXPERT_NAMES, LAYER_NAMES, TOP_NAMES
from shoal.model.formats.gguf.writing.encode import MatrixPart
from shoal.model.formats.tensor_check import expected_shapes
from shoal.model.formats.tensor_part import half_split_order, rotating_heads

Shape = tuple[int, ...]
_QKV, _GATE_UP = {"attn_qkv": ("q", "k", "v")}, {"ffn_up": ("gate", "up")}
_FUSED = {
    "phi3": _QKV | _GATE_UP,
    **dict.fromkeys(("chatglm", "glm4"), _GATE_UP),
    **dict.fromkeys(("gptneox", "gpt2", "falcon"), _QKV),
}
"""matrices that an architecture has under each other, and their biases. Source: llama.cpp, src/models"""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutTensor:
    """One tensor of the file. Its matrices lie under each other, or are those of so many experts."""

    name: str
    parts: tuple[MatrixPart, ...]
    """empty for a tensor that is no part of the source"""
    shape: Shape
    is_vector: bool
    values: F32 | None = None


def out_tensors(config: DecoderConfig, architecture: str) -> Iterator[OutTensor]:
    """All tensors of a model, in its order."""
    names = {**LAYER_NAMES, **BIAS_NAMES, **EXPERT_NAMES, **ARCHITECTURES[architecture].names}
    if architecture == "falcon" and not config.shares_norm:
        names |= FALCON_40B_NAMES
    fused = _FUSED.get(architecture, {})
    stacks: dict[str, list[tuple[str, Shape]]] = {}
    for name, shape in expected_shapes(config):
        if name == "head" and config.tied_embeddings:
            continue
        tensor = TOP_NAMES.get(name)
        if tensor is None:
            _, layer, leaf = name.split(".", 2)
            tensor = f"blk.{layer}.{_layer_tensor(leaf, names, fused)}"
        stacks.setdefault(tensor, []).append((name, shape))
    for tensor, members in stacks.items():
        yield _joined(config, architecture, tensor, members)


def _layer_tensor(leaf: str, names: dict[str, str], fused: dict[str, tuple[str, ...]]) -> str:
    if leaf.startswith("experts."):
        part = leaf.split(".")[2]
        suffix = "bias" if part.endswith("_bias") else "weight"
        return f"ffn_{part.removesuffix('_bias')}_exps.{suffix}"
    for tensor, leaves in fused.items():
        if leaf in leaves:
            return f"{tensor}.weight"
        if leaf.removesuffix("_bias") in leaves and leaf.endswith("_bias"):
            return f"{tensor}.bias"
    return names[leaf]


def _joined(config: DecoderConfig, architecture: str, tensor: str, members: list[tuple[str, Shape]]) -> OutTensor:
    first = members[0][1]
    parts = tuple(MatrixPart(name=name, order_N=_order(config, architecture, name)) for name, _ in members)
    if len(first) == 1 or members[0][0].endswith("shared_router"):  # a matrix of one row is a vector there
        shape = (len(members), first[-1]) if ".experts." in members[0][0] else (sum(one[-1] for _, one in members),)
        if config.parts_qk_norm and members[0][0].endswith(("q_norm", "k_norm")):
            shape = (first[-1] // config.head_dim, config.head_dim)
        return OutTensor(name=tensor, parts=parts, shape=shape, is_vector=True)
    if ".experts." in members[0][0]:
        return OutTensor(name=tensor, parts=parts, shape=(len(members), *first), is_vector=False)
    rows = sum(shape[0] for _, shape in members)
    return OutTensor(name=tensor, parts=parts, shape=(rows, first[1]), is_vector=False)


def _order(config: DecoderConfig, architecture: str, name: str) -> I64 | None:
    """Rows of q and k in interleaved rotary order, where the architecture has them so."""
    heads = rotating_heads(config, name.rpartition(".")[2])
    if not ARCHITECTURES[architecture].is_interleaved or not heads:
        return None
    return np.argsort(half_split_order(heads, config.head_dim, config.rope.rotary_dim))
