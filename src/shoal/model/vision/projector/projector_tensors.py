"""Tensors of a multimodal projector in GGUF, by transformers' names.

Source of the names: gguf-py/gguf/constants.py and tensor_mapping.py; of the converter's changes to tensors: llama.cpp,
conversion/qwenvl.py, qwen3vl.py and gemma.py.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from shoal.arrays import F32
from shoal.errors import ModelLoadError
from shoal.model.formats.gguf.blocks import SUPPORTED, to_dense
from shoal.model.formats.gguf.header import GgufHeader, TensorInfo
from shoal.model.formats.huggingface.part_tensors import fits

_LAYER = re.compile(r"(?:visual\.blocks|encoder\.layers)\.(\d+)\.(.+)")
_DEEP = re.compile(r"visual\.deepstack_merger_list\.(\d+)\.(?:linear_)?(.+)")
_LAYER_NAMES = {
    "norm1": "ln1",
    "norm2": "ln2",
    "layer_norm1": "ln1",
    "layer_norm2": "ln2",
    "attn.qkv": "attn_qkv",
    "attn.proj": "attn_out",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.out_proj": "attn_out",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "mlp.fc1": "ffn_up",
    "mlp.fc2": "ffn_down",
    "mlp.linear_fc1": "ffn_up",
    "mlp.linear_fc2": "ffn_down",
}
_OTHER_NAMES = {
    "visual.patch_embed.proj": "v.patch_embd",
    "visual.pos_embed": "v.position_embd",
    "visual.merger.ln_q": "v.post_ln",
    "visual.merger.norm": "v.post_ln",
    "visual.merger.mlp.0": "mm.0",
    "visual.merger.mlp.2": "mm.2",
    "visual.merger.linear_fc1": "mm.0",
    "visual.merger.linear_fc2": "mm.2",
    "embeddings.patch_embedding": "v.patch_embd",
    "embeddings.position_embedding": "v.position_embd",
    "post_layernorm": "v.post_ln",
    "mm_soft_emb_norm": "mm.soft_emb_norm",
    "mm_input_projection": "mm.input_projection",
}
_SWAPPED = {"ffn_up": "ffn_down", "ffn_down": "ffn_up"}
_SHIFTED = "mm.soft_emb_norm.weight"
"""This tensor includes the 1 that transformers adds to its own."""


class ProjectorTensors:
    """Implements `TowerTensors`."""

    def __init__(self, header: GgufHeader, deep_layers: Sequence[int]) -> None:
        """`deep_layers`: of Qwen3-VL, whose tensors are numbered by the layers that they follow."""
        self.path: Path = header.path
        self._header, self._deep_layers = header, deep_layers
        self._is_swapped = self._has_old_names()

    def read(self, name: str, *dims: int | None) -> F32:
        """See `TowerTensors.read`."""
        parts = self._parts(name)
        values = [self._whole(part) for part in parts]
        if len(parts) == 1:
            found = values[0] - np.float32(1.0) if parts[0] == _SHIFTED else values[0]
        elif parts[0].startswith("v.patch_embd."):
            found = np.stack(values, axis=2)  # one for each frame of a picture
        else:
            found = np.concatenate(values)
        if not fits(found.shape, dims):
            raise ModelLoadError(f"{self.path}: {', '.join(parts)} has the shape {list(found.shape)}")
        return found

    def dtype_of(self, name: str) -> str:
        """See `TowerTensors.dtype_of`."""
        kinds = {self._find(part).kind.name for part in self._parts(name)}
        return kinds.pop() if len(kinds) == 1 else "F32"

    def _parts(self, name: str) -> tuple[str, ...]:
        """The tensors of the file that make up one of transformers'."""
        stem, suffix = name.removesuffix("_weight"), "weight"
        if stem == name:
            stem, _, suffix = name.rpartition(".")
        if layer := _LAYER.fullmatch(stem):
            leaf = _LAYER_NAMES[layer[2]]
            leaf = _SWAPPED.get(leaf, leaf) if self._is_swapped else leaf
            prefix = f"v.blk.{layer[1]}."
            if leaf == "attn_qkv" and f"{prefix}attn_q.weight" in self._header.tensors:
                return tuple(f"{prefix}attn_{part}.{suffix}" for part in "qkv")
            return (f"{prefix}{leaf}.{suffix}",)
        if deep := _DEEP.fullmatch(stem):
            return (f"v.deepstack.{self._deep_layers[int(deep[1])]}.{deep[2]}.{suffix}",)
        found = f"{_OTHER_NAMES[stem]}.{suffix}"
        second_frame = f"{found}.1"
        return (found, second_frame) if second_frame in self._header.tensors else (found,)

    def _whole(self, name: str) -> F32:
        tensor = self._find(name)
        if tensor.kind not in SUPPORTED:
            raise ModelLoadError(f"{self.path}: {name} has quantization {tensor.kind.name}, which is not supported")
        return to_dense(self._header.rows(name), tensor.kind).reshape(tensor.shape)

    def _find(self, name: str) -> TensorInfo:
        tensor = self._header.tensors.get(name)
        if tensor is None:
            raise ModelLoadError(f"{self.path}: there is no tensor {name}")
        return tensor

    def _has_old_names(self) -> bool:
        """Whether the two matrices of an MLP have each other's names, as in files from before April 2025: then the one
        called `down` has the shape of `up`. Source: clip.cpp, `is_ffn_swapped`."""
        down, norm = (self._header.tensors.get(f"v.blk.0.{name}.weight") for name in ("ffn_down", "ln1"))
        return down is not None and norm is not None and down.shape[-1] == norm.shape[-1] != down.num_rows
