"""The cores on which workers compute."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from shoal.errors import ConfigError


def deal_cores(cores: Sequence[int], num_workers: int, threads: int | None) -> tuple[int, list[tuple[int, ...]]]:
    """Divide cores among workers.

    Args:
        cores: CPU ids to use.
        num_workers: workers on this machine, >= 1.
        threads: threads of each worker; None: the cores divided by the workers, at least 1.

    Returns:
        Threads of each worker, and disjoint CPU ids to which each is pinned; empty for all if there are too few cores.

    Raises:
        ConfigError: `threads` is less than 1.
    """
    if threads is not None and threads < 1:
        raise ConfigError(f"--threads is {threads}, but a worker needs at least 1")
    threads = threads or max(1, len(cores) // num_workers)
    if num_workers * threads > len(cores):
        return threads, [()] * num_workers
    return threads, [tuple(cores[worker * threads : (worker + 1) * threads]) for worker in range(num_workers)]


def cores_by_node(cores: Sequence[int], nodes: Iterable[Sequence[int]]) -> list[tuple[int, ...]]:
    """The cores of each NUMA node; all in one group if there is only one node, or if a core is in none.

    Args:
        cores: CPU ids to use, ascending.
        nodes: CPU ids of each node.
    """
    groups = [tuple(core for core in cores if core in set(node)) for node in nodes]
    groups = [group for group in groups if group]
    return groups if len(groups) > 1 and sum(map(len, groups)) == len(cores) else [tuple(cores)]


def thread_warnings(threads: Sequence[int], num_cores: int) -> list[str]:
    """Warnings about unlikely numbers of threads, one line each. `threads`: the threads of each worker."""
    if sum(threads) <= num_cores:
        return []
    return [
        f"{len(threads)} workers with {sum(threads)} threads in all share {num_cores} cores and will slow each "
        "other down; use fewer workers or a smaller --threads"
    ]
