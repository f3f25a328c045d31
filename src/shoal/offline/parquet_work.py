"""A map over rows whose output is one Parquet file, made from .npy files that lie beside it until the end.

Unlike .npy files, a Parquet file can be neither continued after a kill nor written out of order.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from shoal.offline.files.parquet_rows import write_parquet
from shoal.offline.files.row_sink import RowSink
from shoal.offline.pull import Chunk, ChunkResult
from shoal.offline.row_work import RowWork
from shoal.offline.work import Failure
from shoal.out_files import naming, sync_file
from shoal.router.graph_executor import Tensors


class ParquetWork:
    """A RowWork with a final conversion to Parquet. Implements `work.MapWork`."""

    unit = "rows"

    def __init__(self, work: RowWork, sink: RowSink, output: Path) -> None:
        """`work`: writes to `sink`, in the staging folder of `output`."""
        self._work = work
        self._sink = sink
        self._output = output
        self.total = work.total
        self.num_done_before = work.num_done_before

    @property
    def has_more(self) -> bool:
        """See MapWork."""
        return self._work.has_more

    def check_first(self) -> Tensors | None:
        """See MapWork."""
        return self._work.check_first()

    def chunks(self) -> Iterator[Chunk]:
        """See MapWork."""
        return self._work.chunks()

    def take(self, result: ChunkResult) -> tuple[int, list[Failure]]:
        """See MapWork."""
        return self._work.take(result)

    def sync(self) -> None:
        """See MapWork."""
        self._work.sync()

    def finish(self) -> tuple[int, list[Failure]]:
        """Write the Parquet file and remove the .npy files. Raises CapacityError."""
        found = self._work.finish()
        if not self._sink.is_empty:
            self._write()
        return found

    def outputs(self) -> list[str]:
        """See MapWork."""
        return [] if self._sink.is_empty else [str(self._output)]

    def _write(self) -> None:
        partial = self._output.with_name(f"{self._output.name}.part")
        with naming(self._output):
            write_parquet(partial, self._sink.paths)
            sync_file(partial)
            os.replace(partial, self._output)
            shutil.rmtree(staging_folder(self._output))


def staging_folder(output: Path) -> Path:
    """The folder of the .npy files until the Parquet file is written."""
    return output.with_name(f"{output.name}.rows")
