"""What a test's own code logs, as a list of lines."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

_DETAILS = re.compile(r"replica \d+ (starts workers|takes over|story)")


class _Lines(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def replica_lines(*, details: bool = False) -> AbstractContextManager[list[str]]:
    """Lines of the logger `shoal.replicas` while the block runs.

    `details`: also those about starts of workers, requests that move, and stories.
    """
    return _lines("shoal.replicas", lambda line: details or not _DETAILS.search(line))


def launch_lines() -> AbstractContextManager[list[str]]:
    """Lines of the logger `shoal.launch` while the block runs: of plans, machines and first starts."""
    return _lines("shoal.launch", lambda line: True)


@contextmanager
def _lines(name: str, wanted: Callable[[str], bool]) -> Iterator[list[str]]:
    handler, logger = _Lines(), logging.getLogger(name)
    handler.addFilter(lambda record: wanted(record.getMessage()))
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    try:
        yield handler.lines
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)
