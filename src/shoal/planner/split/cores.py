"""Which cores a worker computes on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from shoal.errors import ConfigError


def deal_cores(cores: Sequence[int], num_workers: int, threads: int | None) -> tuple[int, list[tuple[int, ...]]]:
    """Threads of each worker, and the disjoint cores of every worker in order.

    Args:
        cores: CPU ids to use.
        num_workers: on this machine, >= 1.
        threads: of each worker; None: the cores divided by the workers, at least 1.

    Returns:
        The threads, and CPU ids to pin each worker to: none for any of them where the cores do not suffice.

    Raises:
        ConfigError: fewer than one thread.
    """
    if threads is not None and threads < 1:
        raise ConfigError(f"--threads is {threads}, but a worker needs at least 1")
    threads = threads or max(1, len(cores) // num_workers)
    if num_workers * threads > len(cores):
        return threads, [()] * num_workers
    return threads, [tuple(cores[worker * threads : (worker + 1) * threads]) for worker in range(num_workers)]


def cores_by_node(cores: Sequence[int], nodes: Iterable[Sequence[int]]) -> list[tuple[int, ...]]:
    """The cores of each NUMA node, node by node; all in one group where there is one node, or a core is in none.

    Args:
        cores: CPU ids to use, ascending.
        nodes: CPU ids of each node.
    """
    groups = [tuple(core for core in cores if core in set(node)) for node in nodes]
    groups = [group for group in groups if group]
    return groups if len(groups) > 1 and sum(map(len, groups)) == len(cores) else [tuple(cores)]


def thread_warnings(threads: Sequence[int], num_cores: int) -> list[str]:
    """What is likely not meant, one line each. `threads`: of each worker."""
    if sum(threads) <= num_cores:
        return []
    return [
        f"{len(threads)} workers with {sum(threads)} threads in all share {num_cores} cores and will slow each "
        "other down; use fewer workers or a smaller --threads"
    ]
