"""A worker's packed weights, loaded in units: a layer, the embedding, the head.

Memory holds the packed weights and, while they are packed, at most one more unit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from hashlib import sha256
from typing import TYPE_CHECKING

from shoal.model.formats.tensor_check import layer_shapes
from shoal.model.packed.kept_weights import KeptWeights
from shoal.model.packed.memory import own_memory
from shoal.model.packed.pack import arrange, matrices_in, pack
from shoal.model.shard.atoms import whole_part
from shoal.model.shard.source import ShardSource
from shoal.model.weights import Precision, WeightSource

if TYPE_CHECKING:
    from shoal._native import Matrix, ThreadPool


_DIGITS = 16
"""Digits of a list's hash in a unit's name, which tell apart lists of experts of a layer, or of matrices."""


class PackedWeights:
    """The matrices of a model, or of a shard of it, in the native kernels' layout.

    Matrices without weights are missing: those of a shard without heads or columns.
    """

    def __init__(
        self,
        source: WeightSource,
        precision: Precision,
        *,
        pool: ThreadPool,
        kept: KeptWeights | None = None,
        unit_prefix: str = "",
    ) -> None:
        """
        Args:
            source: of the whole model, or a `ShardSource`.
            precision: of its matrices.
            pool: packs them.
            kept: where they are kept; None: they are packed into the process's own memory.
            unit_prefix: what the names of kept units begin with.
        """
        self._source, self._pool, self._kept = source, pool, kept
        self._precision: Precision = precision
        self._unit_prefix = unit_prefix
        self._part = source.part if isinstance(source, ShardSource) else whole_part(source.config)
        self._vocabulary: dict[str, Matrix] = {}
        self.num_bytes = 0
        """Bytes of all matrices loaded so far."""

    def layer(self, layer: int) -> Mapping[str, Matrix]:
        """The matrices of a layer by their names without `layers.i.`: q k v o gate up down and others.

        Raises:
            ModelLoadError: the model's file cannot be read.
        """
        leaves = [leaf for leaf, shape in layer_shapes(self._source.config, layer).items() if len(shape) == 2]
        (first, last), (left, right) = self._part.kv_heads, self._part.columns
        unit = f"layer-{layer}.heads-{first}-{last}.columns-{left}-{right}{self._experts_name(layer)}"
        matrices = self._load(unit, [f"layers.{layer}.{leaf}" for leaf in leaves])
        return {name.removeprefix(f"layers.{layer}."): matrix for name, matrix in matrices.items()}

    def _experts_name(self, layer: int) -> str:
        """Part of a unit's name for the whole experts that a shard holds; empty if it holds none. Which of their rows
        the shard computes does not matter for weights."""
        experts = self._source.config.layer_experts(layer)
        if experts is None or not self._part.experts:
            return ""
        numbers = experts.numbers_in(layer)
        is_run = numbers == list(range(numbers[0], numbers[0] + len(numbers))) if numbers else True
        if is_run:
            return f".experts-{numbers[0]}-{numbers[-1] + 1}" if numbers else ".experts-none"
        return f".experts-{sha256(repr(numbers).encode()).hexdigest()[:_DIGITS]}"

    def embedding(self) -> Matrix:
        """The matrix of the embedding. Raises as `layer` does."""
        return self._of_vocabulary("embedding")

    def head(self) -> Matrix:
        """The matrix of the head; if it is tied, the same as the embedding. Raises as `layer` does."""
        return self._of_vocabulary("embedding" if self._source.config.tied_embeddings else "head")

    def beside(self, names: Sequence[str]) -> Mapping[str, Matrix]:
        """Other matrices than those of layers, embedding and head. Raises as `layer` does."""
        first, last = self._part.vocabulary
        digest = sha256(repr(list(names)).encode()).hexdigest()[:_DIGITS]
        return self._load(f"beside-{digest}.rows-{first}-{last}", names)

    def _of_vocabulary(self, name: str) -> Matrix:
        if name not in self._vocabulary:
            first, last = self._part.vocabulary
            self._vocabulary |= self._load(f"{name}.rows-{first}-{last}", [name])
        return self._vocabulary[name]

    def _load(self, unit: str, names: Sequence[str]) -> Mapping[str, Matrix]:
        arrangement = arrange(self._source, names, self._precision)
        self.num_bytes += arrangement.num_bytes
        write = partial(pack, self._source, arrangement, self._precision, self._pool)
        if self._kept is not None:
            return matrices_in(
                arrangement, self._kept.weights(f"{self._unit_prefix}{unit}", arrangement, write, self._pool)
            )
        memory = own_memory(arrangement.num_bytes)
        write(memory)
        return matrices_in(arrangement, memory)
