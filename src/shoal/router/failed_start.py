"""A start of workers that the system has no room for is a failed attempt, as any other: decision 0008 counts it."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from shoal.errors import WorkerLost


@contextmanager
def counted_as_failed() -> Generator[None]:
    """Raises WorkerLost where the system refuses processes, descriptors or memory: it may have some the next time."""
    try:
        yield
    except (OSError, MemoryError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__
        raise WorkerLost(f"the system has no room for new workers: {reason}") from error
