"""A map job, from options to summary: it opens inputs and outputs, computes, and keeps the journal."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from shoal.arrays import Array
from shoal.core.plan.graph import BatchAxes, GraphPlan
from shoal.errors import ConfigError
from shoal.model.graph.sample.empty_batch import empty_outputs
from shoal.offline.files.fingerprint import fingerprint
from shoal.offline.files.item_sink import ItemSink
from shoal.offline.files.item_source import scan_folder
from shoal.offline.files.parquet_rows import load_arrow
from shoal.offline.files.row_sink import RowSink
from shoal.offline.files.row_source import open_rows
from shoal.offline.item_work import ItemWork
from shoal.offline.journal import Journal, open_journal
from shoal.offline.parquet_work import ParquetWork, staging_folder
from shoal.offline.pull import ChunkRunner
from shoal.offline.row_work import RowWork
from shoal.offline.work import Failure, MapWork
from shoal.out_files import prepare_folder
from shoal.router.graph_executor import Tensors

JOURNAL = ".shoal-map.jsonl"
_COMMIT_S = 1.0
"""Seconds between two commits of the journal, which is the most work that a kill costs; an fsync per second is
cheap."""
_MAX_ROWS = 32
_MAX_INPUT_BYTES = 1 << 20
"""The default limits of a chunk. Small rows gain from batches (MiniLM: 5.6 ms per row alone, 3.3 in batches of 8, 3.1
in 32; docs/log.md, ONNX models); large ones, such as images, gain nothing, and their inner values would fill the
memory."""
_MIN_CHUNKS_PER_SLOT = 4
"""The fewest chunks for each chunk that can be computed at once, so that the end is balanced."""
_MAX_FAILURES = 1000
"""The most failures that a summary lists; further ones are only counted."""

Check = Callable[[Tensors], Tensors]


@dataclass(frozen=True, slots=True, kw_only=True)
class MapOptions:
    """The options of a map."""

    inputs: Path
    """A .npy, .npz or .parquet file of rows, or a folder of .npy or .npz files."""
    output: Path
    """A folder, or a .parquet file."""
    batch_rows: int | None = None
    """Rows of a chunk, >= 1; None: chosen by their size."""
    min_slots: int = 1
    """The least number of chunks that can be computed at once, if the plan is made later, >= 1."""
    resume: bool = False
    """Whether to continue an earlier run."""


@dataclass(slots=True, kw_only=True)
class MapSummary:
    """The summary of a map. Mutable while it runs."""

    unit: str
    """What is counted: `rows` or `files`."""
    total: int
    num_done: int = 0
    """Units that this run has done."""
    num_done_before: int = 0
    """Units that an earlier run has done."""
    num_failed: int = 0
    failures: list[Failure] = field(default_factory=list[Failure])
    elapsed_s: float = 0.0
    outputs: list[str] = field(default_factory=list[str])


def prepare_output(options: MapOptions) -> None:
    """Check that the output can be written, before the model is opened.

    Raises:
        ConfigError: it cannot be written, or exists already.
    """
    if options.output.suffix != ".parquet":
        prepare_folder(options.output)
        return
    if options.output.exists():
        raise ConfigError(f"-o {options.output} exists already; give another name, or remove it")
    load_arrow()
    prepare_folder(staging_folder(options.output))


@contextmanager
def open_map(options: MapOptions, plan: GraphPlan, model_files: Sequence[Path], check: Check) -> Iterator[MapJob]:
    """Open input, output and journal, and check the first input before anything is computed.

    Args:
        options: the options of the map.
        plan: the graph's plan; its split may differ from that of a resumed run.
        model_files: the graph and its external data.
        check: converts inputs for the graph, or raises InvalidRequest.

    Raises:
        ConfigError: the input does not match, the output belongs to another run, or a resumed run had another model.
        InvalidRequest: the first rows do not match the graph.
        CapacityError: the output cannot be written.
    """
    with ExitStack() as files:
        header = {"model": fingerprint(model_files), "batch dimension": _describe(plan.batch)}
        make = _item_work if options.inputs.is_dir() else _row_work
        work, journal = make(options, plan, header, check, files)
        yield MapJob(work, journal, first_inputs=work.check_first())


class MapJob:
    """A map that is ready to run."""

    def __init__(
        self,
        work: MapWork,
        journal: Journal,
        *,
        first_inputs: Tensors | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`clock`: gives monotonic seconds."""
        self.first_inputs = first_inputs
        """The inputs of the first chunk, for planning; None if they are not known yet."""
        self._work = work
        self._journal = journal
        self._clock = clock

    @property
    def has_work(self) -> bool:
        """Whether there is anything to compute; otherwise `run` needs no replicas."""
        return self._work.has_more

    def run(
        self,
        runner: ChunkRunner,
        *,
        on_progress: Callable[[int, int], None] = lambda done, total: None,
        on_failure: Callable[[Failure], None] = lambda failure: None,
    ) -> MapSummary:
        """Compute everything that is not done. In any case, the journal contains what was done.

        Raises:
            InvalidRequest: nothing can be computed, or the input is damaged.
            ConfigError: outputs have inconsistent shapes or types.
            CapacityError: an output cannot be written.
            WorkerLost: all replicas are given up.
        """
        work = self._work
        summary = MapSummary(unit=work.unit, total=work.total, num_done_before=work.num_done_before)
        started_s = committed_s = self._clock()

        def add(num_done: int, failures: Sequence[Failure]) -> None:
            summary.num_done += num_done
            summary.num_failed += len(failures)
            summary.failures += failures[: _MAX_FAILURES - len(summary.failures)]
            for failure in failures:
                on_failure(failure)
            on_progress(summary.num_done_before + summary.num_done + summary.num_failed, summary.total)

        try:
            while work.has_more:
                for result in runner.run(work.chunks(), copy_last=True):
                    add(*work.take(result))
                    if self._clock() - committed_s > _COMMIT_S:
                        self._commit()
                        committed_s = self._clock()
        finally:
            self._commit()
        add(*work.finish())
        summary.elapsed_s = self._clock() - started_s
        summary.outputs = work.outputs()
        return summary

    def _commit(self) -> None:
        """Sync the outputs, then commit their records."""
        if self._journal.has_pending:
            self._work.sync()
            self._journal.commit()


def default_batch_rows(num_rows: int, row_bytes: int, num_slots: int) -> int:
    """The default number of rows of a chunk.

    Args:
        num_rows: rows of the whole input.
        row_bytes: bytes of one row of all inputs.
        num_slots: chunks that can be computed at once.
    """
    by_bytes = _MAX_INPUT_BYTES // max(1, row_bytes)
    by_number = num_rows // (_MIN_CHUNKS_PER_SLOT * num_slots)
    return max(1, min(_MAX_ROWS, by_bytes, by_number))


def _row_work(
    options: MapOptions, plan: GraphPlan, header: dict[str, str], check: Check, files: ExitStack
) -> tuple[MapWork, Journal]:
    source = open_rows(options.inputs, plan.inputs, plan.batch)
    files.callback(source.close)
    batch_rows = _batch_rows(options, plan, source.num_rows, _num_bytes(source.read(0, min(1, source.num_rows))))
    is_parquet = options.output.suffix == ".parquet"
    folder = staging_folder(options.output) if is_parquet else options.output
    header["input"] = fingerprint([options.inputs])
    journal = open_journal(folder / JOURNAL, header, resume=options.resume)
    files.callback(journal.close)
    names = [spec.name for spec in plan.outputs]
    goes_on = any("rows" in record for record in journal.records)
    sink = RowSink(folder, names, plan.batch, source.num_rows, goes_on=goes_on)
    files.callback(sink.close)
    work = RowWork(
        source, sink, journal, plan.batch, batch_rows=batch_rows, check=check, empty=partial(_empty_outputs, plan)
    )
    return (ParquetWork(work, sink, options.output) if is_parquet else work), journal


def _item_work(
    options: MapOptions, plan: GraphPlan, header: dict[str, str], check: Check, files: ExitStack
) -> tuple[MapWork, Journal]:
    if options.output.suffix == ".parquet":
        raise ConfigError(f"-o {options.output}: results for a folder go into a folder")
    if options.output.resolve() == options.inputs.resolve():
        raise ConfigError(f"-o {options.output} is the input folder; give another one")
    items, broken = scan_folder(options.inputs, plan.inputs, plan.batch)
    row_bytes = max((item.row_bytes for item in items), default=1)
    batch_rows = _batch_rows(options, plan, sum(item.num_rows for item in items), row_bytes)
    journal = open_journal(options.output / JOURNAL, {**header, "input": "folder"}, resume=options.resume)
    files.callback(journal.close)
    sink = ItemSink(options.output, [spec.name for spec in plan.outputs], plan.batch)
    if not journal.goes_on:
        sink.refuse_existing(items)
    work = ItemWork(
        items,
        broken,
        sink,
        journal,
        plan.inputs,
        plan.batch,
        batch_rows=batch_rows,
        check=check,
        empty=partial(_empty_outputs, plan),
    )
    return work, journal


def _empty_outputs(plan: GraphPlan, tensors: Tensors) -> dict[str, Array]:
    return empty_outputs(plan.inputs, plan.outputs, plan.batch, tensors)


def _batch_rows(options: MapOptions, plan: GraphPlan, num_rows: int, row_bytes: int) -> int:
    fixed, wanted = plan.batch.rows, options.batch_rows
    if fixed is not None and wanted not in (None, fixed):
        raise ConfigError(f"--batch-size {wanted}: this model fixes the batch at {fixed}")
    num_slots = sum(len(replica.stages) + 1 for replica in plan.replicas)
    return fixed or wanted or default_batch_rows(num_rows, row_bytes, max(num_slots, options.min_slots))


def _num_bytes(tensors: Tensors) -> int:
    return sum(array.nbytes for array in tensors.values())


def _describe(batch: BatchAxes) -> str:
    return str([sorted(batch.inputs.items()), sorted(batch.outputs.items())])
