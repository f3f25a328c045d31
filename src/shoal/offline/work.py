"""What a map consists of, whatever its input looks like."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from shoal.offline.pull import Chunk, ChunkResult
from shoal.router.graph_executor import Tensors


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Something that has no output."""

    name: str
    """a file, or `row N`"""
    reason: str
    """one line"""


class MapWork(Protocol):
    """Gives chunks and takes their results. Adds to its journal what is done; does not commit it."""

    unit: str
    """what is counted: `rows` or `files`"""
    total: int
    """units of the whole input"""
    num_done_before: int
    """units that an earlier run has done"""

    @property
    def has_more(self) -> bool:
        """Whether `chunks` would give any now."""
        ...

    def check_first(self) -> Tensors | None:
        """What is to be computed first, looked at before anything is started; None where that is not known before.

        Raises:
            InvalidRequest: it does not fit the graph.
        """
        ...

    def chunks(self) -> Iterator[Chunk]:
        """What is to be computed. Once all results are taken, failed ones may come again, in smaller pieces."""
        ...

    def take(self, result: ChunkResult) -> tuple[int, list[Failure]]:
        """Write a result. Returns how many units it finished, and those that failed for good."""
        ...

    def sync(self) -> None:
        """Wait until what was written is on the disk."""
        ...

    def finish(self) -> tuple[int, list[Failure]]:
        """There are no more results. How many more are done, and failures, that no result had to do with."""
        ...

    def outputs(self) -> list[str]:
        """The paths of all output files."""
        ...
