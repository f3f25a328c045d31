"""How long a worker is away after its process has ended, where nothing of the kind was seen yet."""

from __future__ import annotations

START_S = 0.6
"""Until another process runs and has its links, without weights. Source: `shoal bench chaos`, idle between kills
(docs/simulate.md)."""
FORK_S = 0.1
"""The same for a worker beside its head, which is forked. Source: benchmarks/drill.py."""
_LOAD_BYTES_PER_S = 1e9
"""Weights that a worker maps or reads after its start. Source: the same."""


def load_seconds(weight_bytes: int, *, is_forked: bool = False) -> float:
    """From a worker's loss until another one is ready in its place; the others keep their weights.

    Args:
        weight_bytes: of the worker.
        is_forked: whether it is on its head's machine, where workers are forked (decision 0047).
    """
    return (FORK_S if is_forked else START_S) + weight_bytes / _LOAD_BYTES_PER_S
