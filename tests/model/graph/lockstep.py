"""Several shards in one thread: every collective is carried out by hand."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from shoal.model.graph.stage.shard_session import Collective, Gather, ShardSegments, Sum

Array = npt.NDArray[Any]


def run_lockstep(shards: Sequence[ShardSegments], tensors: Mapping[str, Array]) -> list[dict[str, Array]]:
    """Each shard's outputs. The shards must ask for the same collectives in the same order."""
    steps = [shard.run(tensors) for shard in shards]
    while True:
        asked = [_next(step) for step in steps]
        if all(isinstance(one, dict) for one in asked):
            return asked
        perform(asked)


def perform(asked: Sequence[Collective]) -> None:
    """What the group would do. Mutates: sums and outputs."""
    if all(isinstance(one, Sum) for one in asked):
        total = np.sum([one.x for one in asked], axis=0, dtype=np.float32)
        for one in asked:
            one.x[:] = total
        return
    assert all(isinstance(one, Gather) for one in asked), f"the shards want different things: {asked}"
    for one in asked:
        for piece, other in zip(one.out, asked, strict=True):
            piece[:] = other.part


def _next(steps: Generator[Collective, None, dict[str, Array]]) -> Any:
    try:
        return next(steps)
    except StopIteration as end:
        return end.value
