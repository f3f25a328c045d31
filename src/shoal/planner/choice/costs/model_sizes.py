"""Sizes of a language model for the choice of a plan: bytes of its parts, and where they can be divided."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from shoal.arrays import F64, I64
from shoal.core.plan.shard_atoms import ShardAtoms
from shoal.protocol.stage_config import Precision

_MOST_VOCABULARY_UNITS = 64
"""The most pieces of the vocabulary in a choice; finer ones make no measurable difference."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PrecisionSizes:
    """Resident bytes of weights at one precision."""

    attention_bytes: tuple[int, ...]
    """Bytes of the matrices q, k, v and o of each layer; 0 for a recurrent one."""
    mlp_bytes: tuple[int, ...]
    """Bytes of the part of each layer that is divided by columns: gate, up and down, or a recurrence and its states."""
    embedding_bytes: int
    head_bytes: int

    @property
    def total_bytes(self) -> int:
        """Bytes of the whole model."""
        return sum(self.attention_bytes) + sum(self.mlp_bytes) + self.embedding_bytes + self.head_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSizes:
    """Sizes at every precision that a plan may use."""

    name: str
    """The model as the user named it."""
    hidden_bytes: int
    """Bytes of one row's hidden state as it crosses a link."""
    kv_bytes_per_token: int
    """Bytes of a token's keys and values in one layer, all heads."""
    layers_without_kv: tuple[int, ...] = ()
    """Indices of layers without a KV cache: recurrent ones, and those with only an MLP."""
    shares_kv: bool = False
    """Whether all heads share one KV cache, as in latent attention, of which each shard keeps all."""
    atoms: ShardAtoms
    by_precision: Mapping[Precision, PrecisionSizes]
    last_cut: int | None = None
    """The last layer with which a stage may begin; None: any."""
    max_context: int
    """Tokens of the longest sequence."""

    @property
    def num_layers(self) -> int:
        return len(next(iter(self.by_precision.values())).attention_bytes)

    @property
    def num_kv_layers(self) -> int:
        """Layers that have keys and values."""
        return self.num_layers - len(self.layers_without_kv)

    @property
    def edges(self) -> I64:
        """The layers with which a stage may begin, ascending, followed by the number of layers."""
        last = self.num_layers - 1 if self.last_cut is None else self.last_cut
        return np.array([*range(last + 1), self.num_layers], np.int64)

    def stage_kinds(self, precision: Precision) -> StageKinds:
        """The distinct kinds of stages of this model at a precision."""
        sizes = self.by_precision[precision]
        number: I64 = np.arange(self.num_layers + 1)
        layers = number[np.newaxis, :] - number[:, np.newaxis]
        ends = 2 * (number == 0)[:, np.newaxis] + (number == self.num_layers)[np.newaxis, :]
        alike = ends * (self.num_layers + 1) + layers
        kv_layers = [layer not in self.layers_without_kv for layer in range(self.num_layers)]
        for part in (sizes.attention_bytes, sizes.mlp_bytes, kv_layers):
            distinct, which = np.unique(_range_sums(np.array(part, np.float64)), return_inverse=True)
            alike = alike * len(distinct) + which.reshape(layers.shape)
        _, places, kind_of = np.unique(np.where(layers > 0, alike, -1), return_index=True, return_inverse=True)
        first, last = np.unravel_index(places, layers.shape)
        return StageKinds(
            kind_of=kind_of.reshape(layers.shape),
            first=first,
            last=last,
            ends=ends[first, last],
            num_layers=layers[first, last],
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StageKinds:
    """Kinds of stages: those of one kind have equally many layers and bytes and the same ends of the model.

    Shapes: K kinds. Kind 0 stands for ranges without layers, which are no stages.
    """

    kind_of: I64
    """[first, last]: the kind of the stage with the layers first:last."""
    first: I64
    """[K]: the first layer of one stage of each kind."""
    last: I64
    """[K]: the end of the layers of the same stage."""
    ends: I64
    """[K]: 2 if the stage begins the model, plus 1 if it ends the model."""
    num_layers: I64
    """[K]: the number of layers; 0 or less for kind 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageBytes:
    """Bytes of a stage, by parts that shards divide differently."""

    attention: int
    """Attention weights, and the KV of all its streams."""
    mlp: int
    vocabulary: int
    """The embedding and the head, if the stage has them."""
    whole: int = 0
    """The part that every shard holds completely: KV shared by all heads."""

    @property
    def total(self) -> int:
        """Bytes of the whole stage on one worker."""
        return self.attention + self.mlp + self.vocabulary + self.whole


class StageBytesTable:
    """Bytes of all stages at one precision, with KV for a number of tokens.

    `attention`, `mlp`, `vocabulary` and `whole` are arrays [first, last] for the layers first:last, in the parts of
    `StageBytes`; `total` is their sum.
    """

    def __init__(self, model: ModelSizes, precision: Precision, kv_tokens: int) -> None:
        sizes = model.by_precision[precision]
        kv_bytes = kv_tokens * model.kv_bytes_per_token
        attention = np.array(sizes.attention_bytes, np.float64)
        kv = np.full(len(attention), kv_bytes, np.float64)
        kv[list(model.layers_without_kv)] = 0
        whole = kv if model.shares_kv else np.zeros_like(kv)
        attention += kv - whole
        mlp = np.array(sizes.mlp_bytes, np.float64)
        self.attention = _range_sums(attention)
        self.whole = _range_sums(whole)
        self.mlp = _range_sums(mlp)
        self.vocabulary = np.zeros_like(self.mlp)
        self.vocabulary[0, :] += sizes.embedding_bytes
        self.vocabulary[:, -1] += sizes.head_bytes
        self.total = self.attention + self.mlp + self.vocabulary + self.whole
        self._largest = int(attention.max()), int(mlp.max()), int(whole.max())

    def of(self, first: int, last: int) -> StageBytes:
        """Bytes of the layers first:last, including the embedding in the first stage and the head in the last."""
        return StageBytes(
            attention=int(self.attention[first, last]),
            mlp=int(self.mlp[first, last]),
            vocabulary=int(self.vocabulary[first, last]),
            whole=int(self.whole[first, last]),
        )

    def end_bytes(self, *, is_first: bool, is_last: bool) -> int:
        """Bytes of the vocabulary in a stage with the embedding, the head, both, or neither."""
        return int(self.vocabulary[0 if is_first else 1, -1 if is_last else 0])

    def largest(self, num_layers: int, *, vocabulary: int) -> StageBytes:
        """An upper bound on the bytes of any `num_layers` layers."""
        attention, mlp, whole = (num_layers * largest for largest in self._largest)
        return StageBytes(attention=attention, mlp=mlp, vocabulary=vocabulary, whole=whole)


def _range_sums(values: F64) -> F64:
    """[first, last]: the sum of values[first:last]."""
    before = np.concatenate(([0.0], np.cumsum(values)))
    return before[np.newaxis, :] - before[:, np.newaxis]


def vocabulary_units(atoms: ShardAtoms) -> tuple[int, int]:
    """The number of pieces into which the vocabulary is divided, and the rows of each piece but the last."""
    atoms_per_unit = -(-atoms.num_vocab_atoms // _MOST_VOCABULARY_UNITS)
    return -(-atoms.num_vocab_atoms // atoms_per_unit), atoms_per_unit * atoms.vocab_atom
