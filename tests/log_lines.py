"""What a test's own code logs, as a list of lines."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager

_DETAILS = re.compile(r"replica \d+ (starts workers|takes over|story)")


class _Lines(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


@contextmanager
def replica_lines(*, details: bool = False) -> Iterator[list[str]]:
    """Lines of the logger `shoal.replicas` while the block runs.

    `details`: also those about starts of workers, requests that move, and stories.
    """
    handler, logger = _Lines(), logging.getLogger("shoal.replicas")
    if not details:
        handler.addFilter(lambda record: not _DETAILS.search(record.getMessage()))
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    try:
        yield handler.lines
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)
