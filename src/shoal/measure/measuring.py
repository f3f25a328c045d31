"""How to measure: what every measurement is told, whatever it measures."""

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
    """Whether to measure what is known, too."""
    is_rough: bool = False
    """Whether to measure in a hurry what is not known. Such figures are kept for the next hurry and for nothing else.
    """
    on_progress: Callable[[str], None] = _tell_nobody
    """Told what is being measured."""
