"""`shoal verify` for an ONNX graph: the split against plain ONNX Runtime on the whole file."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from rich.table import Table

from shoal.arrays import Array
from shoal.cli.graphs.loading import load_graph, open_with_inputs
from shoal.cli.shared.agreement import Agreement
from shoal.cli.show.output import print_table
from shoal.config import GraphLaunchConfig
from shoal.executor.graph_in_process import InProcessGraphExecutor
from shoal.model.graph.sample.batch_axes import vary_rows
from shoal.model.graph.sample.input_check import check_inputs
from shoal.offline.pull import ChunkRunner
from shoal.offline.run_once import run_once
from shoal.planner.files.plan_data import graph_plan_dict
from shoal.verify.graphs import OutputComparison, PlainRuntime, compare_outputs

_SAMPLE_ROWS = 4


def verify_graph(config: GraphLaunchConfig, *, inputs: Path | None, quiet: bool) -> Agreement:
    """Compare all outputs for `inputs`, or for made-up ones. Raises ShoalError."""
    graph, given = open_with_inputs(config.model, inputs)
    with load_graph(config, quiet=quiet, sample=given, graph=graph) as loaded:
        plan = loaded.plan
        if given is None:
            given = vary_rows(loaded.sample, plan.batch, plan.batch.rows or _SAMPLE_ROWS)
        arrays = check_inputs(graph.inputs, given, defaults=graph.defaults, batch=plan.batch, convert=True)
        with ChunkRunner(loaded.executors) as runner:
            split = run_once(runner, plan, arrays, micro_batch=config.micro_batch)

    def run_plain(*, is_optimized: bool) -> dict[str, Array]:
        plain = PlainRuntime(graph.path, threads=plan.replicas[0].shards[0].threads, is_optimized=is_optimized)
        with ChunkRunner([InProcessGraphExecutor(plain)]) as runner:
            return run_once(runner, plan, arrays, micro_batch=config.micro_batch)

    whole = run_plain(is_optimized=True)
    has_devices = any(shard.device is not None for shard in plan.shards)
    comparisons = compare_outputs(whole, split, has_devices=has_devices)
    if not all(one.agrees for one in comparisons):
        comparisons = compare_outputs(whole, split, run_plain(is_optimized=False), has_devices=has_devices)
    agrees = all(one.agrees for one in comparisons)
    outputs = [{**asdict(one), "agrees": one.agrees} for one in comparisons]
    return Agreement(
        agrees=agrees,
        figures={"model": config.model, "agrees": agrees, "outputs": outputs, "plan": graph_plan_dict(plan)},
        summary=_summary(comparisons, inputs),
        print_details=lambda: _print(comparisons),
    )


def _print(comparisons: list[OutputComparison]) -> None:
    table = Table()
    for column in ("output", "largest difference", "relative", "tolerance", ""):
        table.add_column(column, justify="left" if column in ("output", "") else "right")
    for one in comparisons:
        result = "equal bits" if one.is_equal else "agrees" if one.agrees else "MISMATCH"
        figures = (f"{one.max_difference:.3g}", f"{one.relative_difference:.3g}", f"{one.tolerance:.2g}")
        table.add_row(one.name, *figures, result)
    print_table(table, to_stderr=True)


def _summary(comparisons: list[OutputComparison], inputs: Path | None) -> str:
    on = "made-up inputs (give --inputs for real ones)" if inputs is None else str(inputs)
    if all(one.is_equal for one in comparisons):
        return f"agrees: every output equals plain ONNX Runtime's bit by bit, on {on}"
    if all(one.agrees for one in comparisons):
        worst = max(one.relative_difference for one in comparisons)
        return f"agrees: equal to plain ONNX Runtime up to rounding ({worst:.2g} of the largest value), on {on}"
    return f"MISMATCH against plain ONNX Runtime, on {on}"
