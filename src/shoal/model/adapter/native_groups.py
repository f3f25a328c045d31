"""Adapters in the native layers' form: for terms that read the same rows, their A below each other, and each B."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from shoal.model.adapter.adapter import PLACES, Adapter
from shoal.model.adapter.low_rank import Floats, LowRank
from shoal.model.packed.memory import own_memory
from shoal.model.packed.pack import packed_form
from shoal.model.weights import Packing, WeightSource

if TYPE_CHECKING:
    from shoal._native import AdapterGroup, Matrix, ThreadPool


class NativeAdapters:
    """Packs the adapters of a stage, or of a shard of it."""

    def __init__(self, adapters: Sequence[Adapter], source: WeightSource, pool: ThreadPool) -> None:
        """
        Args:
            adapters: by their numbers.
            source: weights of the stage or shard.
            pool: packs them.
        """
        self._adapters, self._source, self._pool = adapters, source, pool
        self.num_bytes = 0
        """Bytes of all matrices so far."""

    def layer(self, layer: int) -> list[list[AdapterGroup]]:
        """For each adapter, the terms that it adds to a layer's products. Raises ModelLoadError if a file cannot be
        read."""
        return [
            [self._group(group) for leaves in PLACES if (group := adapter.group(self._source, layer, leaves))]
            for adapter in self._adapters
        ]

    def _group(self, terms: Mapping[str, LowRank]) -> AdapterGroup:
        modules = {term.module: term for term in terms.values()}
        firsts, num_ranks = dict[str, int](), 0
        for module, term in modules.items():
            firsts[module] = num_ranks
            num_ranks += term.rank
        a = self._packed(_under_each_other([term.a for term in modules.values()]))
        parts = [(leaf, self._packed(term.b), firsts[term.module], term.scale) for leaf, term in terms.items()]
        return a, parts

    def _packed(self, floats: Floats) -> Matrix:
        from shoal._native import Matrix, layout_bytes, pack_gguf

        num_outputs, num_inputs = floats.shape
        form = packed_form(Packing(kind=floats.kind, shape=floats.shape))
        memory = own_memory(layout_bytes(form))
        rows_NB = np.ascontiguousarray(floats.items).view(np.uint8).reshape(num_outputs, -1)
        pack_gguf(self._pool, floats.kind, rows_NB, None, 0, num_inputs, memory)
        self.num_bytes += len(memory)
        return Matrix(form, memory)


def _under_each_other(matrices: Sequence[Floats]) -> Floats:
    """One matrix with the rows of all matrices; in fp32 if their types differ."""
    if len({one.kind for one in matrices}) > 1:
        matrices = [one.widened() for one in matrices]
    return Floats(kind=matrices[0].kind, items=np.concatenate([one.items for one in matrices]))
