"""Which rows of which tensor of a Hugging Face directory hold a matrix.

Source: transformers, the names and forms of each family's modules.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from math import prod
from pathlib import Path

from shoal.arrays import F32
from shoal.errors import ModelLoadError
from shoal.model.decoder_config import DecoderConfig
from shoal.model.formats.gguf.blocks import to_dense
from shoal.model.formats.gguf.kinds import Kind
from shoal.model.formats.huggingface.families.family import Family
from shoal.model.formats.huggingface.mxfp4 import blocks_in_place_of, is_mxfp4, mxfp4_shape
from shoal.model.formats.huggingface.quantized.coded_matrix import CodedMatrix
from shoal.model.formats.huggingface.tensor_files import Tensor
from shoal.model.formats.tensor_part import TensorPart, rotating_heads

ITEM_BYTES = {"F32": 4, "F16": 2, "BF16": 2}
"""Bytes of the types that weights may have."""
KINDS = {"F32": Kind.F32, "F16": Kind.F16, "BF16": Kind.BF16}
_FLAT = (
    *("q_norm.weight", "k_norm.weight", "e_score_correction_bias"),
    *("modality_router.weight", "prediction_coefs.weight", "correction_coefs.weight"),
)
"""Vectors that files have as matrices, with a row for each head or stream, or with one row."""
_FUSED = {
    **dict.fromkeys(("q", "k", "v"), "qkv"),
    **dict.fromkeys(("gate", "up"), "gate_up"),
    **dict.fromkeys(("shared_gate", "shared_up"), "shared_gate_up"),
}
"""Name of the fused tensor that may hold several matrices."""
_EXPERT = re.compile(r"experts\.(\d+)\.")
_HEAD = re.compile(r"heads\.(\d+)\.")


class TensorMap:
    """The tensors of a directory by the names of `WeightSource`. Methods raise ModelLoadError for a missing tensor."""

    def __init__(
        self,
        directory: Path,
        family: Family,
        config: DecoderConfig,
        tensors: Mapping[str, Tensor],
        coded: Mapping[str, CodedMatrix],
    ) -> None:
        """
        Args:
            directory: for messages.
            family: how its files name and lay out tensors.
            config: of the model.
            tensors: of all files, by their names.
            coded: quantized matrices, each of several of these tensors.
        """
        self.directory = directory
        self.family = family
        self.config = config
        self.tensors = tensors
        self.coded = coded
        self._prefix = self._find_prefix()
        self._head = next((name for name in self.names() if name.endswith(self.family.head)), None)

    def names(self) -> Iterable[str]:
        """Names of all matrices and vectors; the tensors of a quantized matrix have one name together."""
        parts = frozenset[str]().union(*(matrix.tensors for matrix in self.coded.values()))
        return [*self.coded, *(name for name in self.tensors if name not in parts)]

    def has(self, tensor: str) -> bool:
        """Whether there is a tensor or a quantized matrix of this name."""
        return tensor in self.tensors or tensor in self.coded

    def _find_prefix(self) -> str:
        """What stands before `embed_tokens` and `layers`. It differs in models that were taken out of a multimodal
        one."""
        suffix = self.family.top["embedding"]
        for name in self.names():
            if name.endswith(suffix):
                return name.removesuffix(suffix)
        raise ModelLoadError(f"{self.directory}: there is no tensor that ends in {suffix!r}")

    def locate(self, name: str) -> TensorPart:
        """The rows of a tensor that hold a matrix or vector, given its name in `WeightSource`.

        A separate head counts even if the settings tie it to the embedding: transformers ties the two only if they are
        equal.
        """
        if name == "head":
            return self._whole(self._head or self._prefix + self.family.top["embedding"])
        if name == "head_bias":
            return self._whole((self._head or self.family.head).removesuffix("weight") + "bias")
        if name in self.family.top:
            return self._whole(self._prefix + self.family.top[name])
        part, _, rest = name.partition("layers.")
        layer, leaf = rest.split(".", 1)
        prefix = f"{self._prefix}{self.family.top[f'{part}layers']}{layer}."
        if expert := _EXPERT.match(leaf):
            return self._expert_part(prefix, leaf[expert.end() :], int(expert[1]))
        if head := _HEAD.match(leaf):
            return self._head_part(prefix, leaf[head.end() :], int(head[1]))
        return self._fused_part(prefix, leaf) or self._whole(self._layer_tensor(prefix, leaf), leaf)

    def is_tied(self) -> bool:
        """Whether the head is the embedding: the files have no head, or the settings tie it and both are equal."""
        if self._head is None:
            return True
        head, embedding = (self.tensors.get(one) for one in (self._head, self._prefix + self.family.top["embedding"]))
        if head is None or embedding is None or not self.config.tied_embeddings:
            return False
        return head.is_same_as(embedding)

    def _layer_tensor(self, prefix: str, leaf: str) -> str:
        tensor, other = prefix + self.family.names.get(leaf, leaf), self.family.other_names.get(leaf)
        return tensor if other is None or self.has(tensor) else prefix + other

    def _expert_part(self, prefix: str, leaf: str, expert: int) -> TensorPart:
        """The part of one expert, which may lie in a tensor with the layer's other experts; rows of gate and up then
        alternate."""
        tensor = prefix + self.family.names[f"experts.*.{leaf}"].replace("*", str(expert))
        experts = self.config.experts
        if not self.family.stacks_experts or experts is None:
            return self._whole(tensor)
        tensor = blocks_in_place_of(tensor, self.tensors)
        if tensor not in self.tensors:
            others = self.family.other_names.get(f"experts.*.{leaf}")
            return self._whole(tensor if others is None else prefix + others.replace("*", str(expert)))
        is_joined = leaf.startswith(("gate", "up"))
        num_rows = 2 * experts.columns if is_joined else self.config.hidden_size
        if is_joined and self.family.halves_gate_up:
            start = expert * num_rows + (experts.columns if leaf.startswith("up") else 0)
            return TensorPart(tensor=tensor, start=start, stop=start + experts.columns, stack=experts.num_experts)
        return TensorPart(
            tensor=tensor,
            start=expert * num_rows + leaf.startswith("up"),
            stop=(expert + 1) * num_rows,
            step=2 if is_joined else 1,
            stack=experts.num_experts,
        )

    def _head_part(self, prefix: str, leaf: str, head: int) -> TensorPart:
        """A head's matrices into and out of the latent space: one tensor has both, head by head."""
        part, latent = self._whole(prefix + self.family.names["heads.*"]), self.config.latent
        assert latent is not None
        start = head * (latent.plain_dim + latent.value_dim)
        middle = start + latent.plain_dim
        if leaf == "k_up":
            return replace(part, start=start, stop=middle, turned=latent.latent_dim)
        return replace(part, start=middle, stop=middle + latent.value_dim)

    def _fused_part(self, prefix: str, leaf: str) -> TensorPart | None:
        """The part of a fused tensor: gate above up, q, k and v below each other or in turn for each key head, or the
        family's own layout."""
        own = self.family.part(self.config, leaf)
        if own is not None:
            self._whole(prefix + own.tensor)
            return replace(own, tensor=prefix + own.tensor)
        part = leaf.removesuffix("_bias")
        name = _FUSED.get(part)
        fused = self.family.names.get(f"{name}{leaf.removeprefix(part)}")
        if fused is None or not self.has(prefix + fused):
            return None
        config, tensor = self.config, prefix + fused
        if part not in ("q", "k", "v"):
            is_shared = config.experts is not None and part.startswith("shared_")
            columns = config.experts.shared_columns if is_shared and config.experts else config.intermediate_size
            start = columns if part.endswith("up") else 0
            return TensorPart(tensor=tensor, start=start, stop=start + columns)
        heads = self._interleaved_heads(leaf)
        group = config.num_heads // config.num_kv_heads if self.family.groups_qkv else config.num_heads
        per_group = 1 if self.family.groups_qkv else config.num_kv_heads
        first, count = {"q": (0, group), "k": (group, per_group), "v": (group + per_group, per_group)}[part]
        stride, total = group + 2 * per_group, config.num_heads + 2 * config.num_kv_heads
        if stride == total:
            start, stop = first * config.head_dim, (first + count) * config.head_dim
            return TensorPart(tensor=tensor, start=start, stop=stop, heads=heads)
        dim = config.head_dim
        return TensorPart(
            tensor=tensor, start=first * dim, stop=total * dim, step=stride * dim, run=count * dim, heads=heads
        )

    def _whole(self, tensor: str, leaf: str = "") -> TensorPart:
        if not self.has(tensor):
            raise ModelLoadError(f"{self.directory}: there is no tensor {tensor!r}")
        shape = self.shape(tensor)
        return TensorPart(tensor=tensor, start=0, stop=shape[0] if shape else 0, heads=self._interleaved_heads(leaf))

    def _interleaved_heads(self, leaf: str) -> int:
        """Number of heads of a matrix or vector whose rows are in interleaved rotary order; otherwise 0."""
        if not self.family.is_interleaved:
            return 0
        return rotating_heads(self.config, leaf)

    def is_mxfp4(self, tensor: str) -> bool:
        """Whether a tensor holds MXFP4 blocks."""
        return self.family.stacks_experts and is_mxfp4(tensor)

    def is_transposed(self, tensor: str) -> bool:
        """Whether the matrices in a tensor have inputs before outputs."""
        if self.family.is_transposed:
            return len(self.tensors[tensor].shape) == 2 and self.family.top["layers"] in tensor
        is_stacked = self.family.stacks_experts and self.family.turns_experts
        stack, _, leaf = tensor.rpartition("experts.")
        return is_stacked and leaf in ("gate_up_proj", "down_proj") and not self._is_upright(f"{stack}experts.")

    def _is_upright(self, stack: str) -> bool:
        """Whether a layer's experts have outputs before inputs although their family's published files are transposed.
        Source: transformers 5, conversion_mapping.py, which transposes experts on loading unless their shape fits."""
        experts, gate_up = self.config.experts, self.tensors.get(f"{stack}gate_up_proj")
        if experts is None or gate_up is None or 2 * experts.columns == self.config.hidden_size:
            return False
        return gate_up.shape[1:] == (2 * experts.columns, self.config.hidden_size)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of the matrices in a tensor: outputs before inputs, in weights and not in blocks."""
        if coded := self.coded.get(name):
            return coded.shape
        shape = self.tensors[name].shape
        if self.is_mxfp4(name):
            return mxfp4_shape(shape)
        if self.is_transposed(name):
            return (*shape[:-2], shape[-1], shape[-2]) if len(shape) >= 2 else shape
        return (prod(shape),) if name.endswith(_FLAT) else shape

    def floats_of(self, tensor: str) -> F32:
        """All items of a tensor of floats."""
        found = self.tensors[tensor]
        return to_dense(found.items("u1").reshape(1, -1), KINDS[found.dtype])[0]
