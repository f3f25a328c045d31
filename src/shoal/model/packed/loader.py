"""A worker's packed weights, unit by unit: a layer, the embedding, the head.

What is in memory at once are the packed weights and, while they are made, one unit more.
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
"""Of the hash of a list: two lists of experts of one layer, or of matrices, are told apart."""


class PackedWeights:
    """The matrices of a model, or of a shard of it, in the native kernels' layout.

    Matrices without weights, of a shard that has no heads or columns, are missing.
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
        """of all matrices so far"""

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
        """Tells apart shards that hold different experts whole; empty where there are none of these. Which of their
        rows they compute makes no other weights."""
        experts = self._source.config.layer_experts(layer)
        if experts is None or not self._part.experts:
            return ""
        numbers = experts.numbers_in(layer)
        is_run = numbers == list(range(numbers[0], numbers[0] + len(numbers))) if numbers else True
        if is_run:
            return f".experts-{numbers[0]}-{numbers[-1] + 1}" if numbers else ".experts-none"
        return f".experts-{sha256(repr(numbers).encode()).hexdigest()[:_DIGITS]}"

    def embedding(self) -> Matrix:
        """The embedding's rows. Raises as `layer` does."""
        return self._of_vocabulary("embedding")

    def head(self) -> Matrix:
        """The head's rows: where it is tied, the same matrix as the embedding. Raises as `layer` does."""
        return self._of_vocabulary("embedding" if self._source.config.tied_embeddings else "head")

    def beside(self, names: Sequence[str]) -> Mapping[str, Matrix]:
        """Matrices that are neither a layer's nor the embedding or the head. Raises as `layer` does."""
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
