"""Memory of one machine's workers where each holds the whole model: its kept weights are mapped once for all."""

from __future__ import annotations

from dataclasses import replace

from shoal.planner.speeds.speeds import Fleet


def for_copies(fleet: Fleet, weight_bytes: int) -> Fleet | None:
    """The same workers with what each has for its weights and KV if all of them share one copy of the weights.

    n workers of m bytes each have room for W + n KV <= n m, so that one that counts W whole has m + W (1 - 1/n). Fewer
    copies than workers have more, which is not counted.

    Args:
        fleet: workers of one machine, among which its memory is divided.
        weight_bytes: of the whole model, at the precision where it is smallest.

    Returns:
        None where there is but one worker.
    """
    num_workers = sum(fleet.counts)
    if num_workers == 1:
        return None
    shared_bytes = weight_bytes - -(-weight_bytes // num_workers)
    classes = tuple(replace(one, memory_bytes=one.memory_bytes + shared_bytes) for one in fleet.classes)
    return replace(fleet, classes=classes, is_for_copies=True)
