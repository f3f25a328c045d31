"""Runs one input of any number of rows on all replicas: divided into pieces, computed in parallel, joined in order."""

from __future__ import annotations

from collections.abc import Iterator

from shoal.arrays import Array
from shoal.core.plan.graph import BatchAxes, GraphPlan
from shoal.errors import InvalidRequest
from shoal.model.graph.sample.empty_batch import empty_outputs, is_empty
from shoal.offline.pull import Chunk, ChunkRunner
from shoal.router.graph_executor import Tensors
from shoal.router.rows import RowAssembler, count_rows, pad_rows, take_rows

PIECES_PER_STAGE = 4
"""Pieces per stage. A pipeline of S stages with m pieces is busy for m / (m + S - 1) of the time: at least 80 % with 4
S pieces."""


def rows_per_piece(plan: GraphPlan, num_rows: int, wanted: int | None = None) -> int:
    """The number of rows of a piece.

    Args:
        plan: the plan, which determines how many pieces keep all workers busy.
        num_rows: rows of the whole input.
        wanted: the user's number; None: determined by the plan. A graph with a fixed number of rows uses that.
    """
    if not plan.batch.is_batched:
        return num_rows
    if plan.batch.rows is not None:
        return plan.batch.rows
    if wanted is not None:
        return wanted
    num_stages = len(plan.replicas[0].stages)
    pieces = len(plan.replicas) * (1 if num_stages == 1 else PIECES_PER_STAGE * num_stages)
    return max(1, -(-num_rows // pieces))


def run_once(
    runner: ChunkRunner, plan: GraphPlan, inputs: Tensors, *, micro_batch: int | None = None
) -> dict[str, Array]:
    """Compute all outputs for `inputs`, which must have been checked.

    Args:
        runner: runs chunks on the plan's replicas.
        plan: the plan of the graph.
        inputs: all inputs of the graph.
        micro_batch: rows of a piece; None: as many as keep all workers busy.

    Raises:
        InvalidRequest: ONNX Runtime cannot run these inputs, or they have different numbers of rows.
        WorkerLost: all replicas are given up.
    """
    axes = plan.batch
    if is_empty(inputs, axes):
        return empty_outputs(plan.inputs, plan.outputs, axes, inputs)
    num_rows = count_rows(inputs, axes)
    piece_rows = rows_per_piece(plan, num_rows, micro_batch)
    if piece_rows >= num_rows and axes.rows is None:
        pieces = iter((Chunk(index=0, inputs=inputs),))
    else:
        pieces = _cut(inputs, axes, num_rows, piece_rows)
    whole = RowAssembler(axes, num_rows)
    for result in runner.run(pieces):
        if result.error is not None:
            raise InvalidRequest(result.error)
        first = result.index * piece_rows
        rows = min(piece_rows, num_rows - first)
        whole.write(result.outputs, first, rows, axes.rows or rows)
    return whole.outputs()


def _cut(inputs: Tensors, axes: BatchAxes, num_rows: int, piece_rows: int) -> Iterator[Chunk]:
    for index, first in enumerate(range(0, num_rows, piece_rows)):
        piece = take_rows(inputs, axes, first, min(num_rows, first + piece_rows))
        yield Chunk(index=index, inputs=piece if axes.rows is None else pad_rows(piece, axes, axes.rows))
