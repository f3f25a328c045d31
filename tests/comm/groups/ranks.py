"""Ranks that are threads of the test's process."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Result = TypeVar("Result")


def run_ranks(size: int, body: Callable[[int], Result]) -> list[Result]:
    """Call body(rank) for every rank at once. Raises what the first of them raises."""
    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(body, range(size)))


def run_failing_ranks(size: int, body: Callable[[int], object]) -> list[BaseException | None]:
    """Call body(rank) for every rank at once; what each of them raises."""
    with ThreadPoolExecutor(size) as pool:
        return [future.exception() for future in [pool.submit(body, rank) for rank in range(size)]]
