"""The options of all measurements."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


def _tell_nobody(what: str) -> None:
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class Measuring:
    """How thoroughly to measure, and who is told about it."""

    threads: int | None = None
    """Threads of each worker; None: 1, 2, 4, ... workers share the cores."""
    refresh: bool = False
    """Whether to measure again what is already known."""
    is_rough: bool = False
    """Whether to measure unknown results only roughly. Rough results are kept apart and reused only for rough ones."""
    on_progress: Callable[[str], None] = _tell_nobody
    """Called with what is being measured."""
