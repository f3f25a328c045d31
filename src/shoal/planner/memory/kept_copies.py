"""Memory of a machine's workers that each hold the whole model and map one kept copy of its weights."""

from __future__ import annotations

from dataclasses import replace

from shoal.planner.speeds.speeds import Fleet


def for_copies(fleet: Fleet, weight_bytes: int) -> Fleet | None:
    """The fleet with the memory that each worker has if all of them share one copy of the weights.

    n workers of m bytes each have room for W + n KV <= n m, so a worker that counts all of W has m + W (1 - 1/n). With
    fewer copies than workers there is more room, which is not counted.

    Args:
        fleet: workers of one machine, among which its memory is divided.
        weight_bytes: bytes of the whole model, at its smallest precision.

    Returns:
        The fleet; None if there is only one worker.
    """
    num_workers = sum(fleet.counts)
    if num_workers == 1:
        return None
    shared_bytes = weight_bytes - -(-weight_bytes // num_workers)
    classes = tuple(replace(one, memory_bytes=one.memory_bytes + shared_bytes) for one in fleet.classes)
    return replace(fleet, classes=classes, is_for_copies=True)
