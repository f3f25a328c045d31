"""The interface of a map's work, for any kind of input."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from shoal.offline.pull import Chunk, ChunkResult
from shoal.router.graph_executor import Tensors


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A file or row without output."""

    name: str
    """The name of a file, or `row N`."""
    reason: str
    """The error, in one line."""


class MapWork(Protocol):
    """Yields chunks and takes their results. It adds records to its journal, but does not commit them."""

    unit: str
    """What is counted: `rows` or `files`."""
    total: int
    """Units of the whole input."""
    num_done_before: int
    """Units that an earlier run has done."""

    @property
    def has_more(self) -> bool:
        """Whether `chunks` would yield any now."""
        ...

    def check_first(self) -> Tensors | None:
        """Read and check the first inputs before anything is started; None if they are not known yet.

        Raises:
            InvalidRequest: they do not match the graph.
        """
        ...

    def chunks(self) -> Iterator[Chunk]:
        """Yield the chunks to compute. After all results, failed ones may be yielded again, in smaller pieces."""
        ...

    def take(self, result: ChunkResult) -> tuple[int, list[Failure]]:
        """Write a result. Returns the number of units that it finished, and the units that have finally failed."""
        ...

    def sync(self) -> None:
        """Wait until everything written is on disk."""
        ...

    def finish(self) -> tuple[int, list[Failure]]:
        """Finish after the last result. Returns further units that are done, and further failures."""
        ...

    def outputs(self) -> list[str]:
        """The paths of all output files."""
        ...
