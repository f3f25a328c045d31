"""What the commands print about an ONNX graph."""

from __future__ import annotations

from rich.table import Table

from shoal.cli.show.output import note, print_table
from shoal.core.plan.graph import GraphPlan, GraphStagePlan, SplitReport
from shoal.planner.files.plan_data import split_shares
from shoal.protocol.stage_interface import TensorSpec

_MB = 1e6


def describe(spec: TensorSpec) -> str:
    """`x float32 [N, 3, 224, 224]`."""
    dims = "" if spec.shape is None else f" [{', '.join('?' if dim is None else str(dim) for dim in spec.shape)}]"
    return f"{spec.name} {spec.dtype}{dims}{' (optional)' if spec.is_optional else ''}"


def print_graph_plan(plan: GraphPlan) -> None:
    """The plan as a small table on stderr."""
    table = Table(title=f"{plan.model}  split {plan.split}  {_batch(plan)}", title_justify="left")
    has_devices = any(shard.device is not None for shard in plan.shards)
    device = ("device",) if has_devices else ()
    for column in ("worker", "nodes", "threads", "cores", *device, "weights", "time", "hands on"):
        justify = "left" if column in ("worker", "hands on") else "right"
        table.add_column(column, justify=justify, no_wrap=column in ("worker", "device"))
    for r, replica in enumerate(plan.replicas):
        total_s = sum(stage.compute_s or 0.0 for stage in replica.stages)
        for s, stage in enumerate(replica.stages):
            for rank, shard in enumerate(stage.shards):
                table.add_row(
                    f"replica {r} stage {s}" + (f" shard {rank}" if len(stage.shards) > 1 else ""),
                    f"{stage.first_node}-{stage.last_node - 1}",
                    str(shard.threads),
                    shard.machine or ",".join(map(str, shard.cores)) or "any",
                    *([shard.device.name if shard.device else "cpu"] if has_devices else []),
                    f"{shard.weight_bytes / _MB:.1f} MB",
                    f"{(stage.compute_s or 0.0) / total_s:.0%}" if total_s else "",
                    "" if rank else _crossing(stage),
                )
    print_table(table, to_stderr=True)
    if (report := plan.split_report) is not None:
        note(f"tensor parallel: {plan.split} {describe_split(report)}")


def describe_split(report: SplitReport) -> str:
    """Which part of the graph the shards of a stage share among them."""
    weights, flops = split_shares(report)
    if not report.split_weight_bytes:
        return "splits nothing of this graph: every shard would compute all of it"
    return (
        f"splits {weights:.1%} of the weights and {flops:.1%} of the arithmetic, "
        f"with {report.num_sums} sums and {report.num_gathers} gathers a run"
    )


def _batch(plan: GraphPlan) -> str:
    if not plan.batch.is_batched:
        return "not batched"
    return "any number of rows" if plan.batch.rows is None else f"{plan.batch.rows} rows at a time"


def _crossing(stage: GraphStagePlan) -> str:
    crossing = [one.spec for one in stage.outputs if any(consumer >= 0 for consumer in one.consumers)]
    if not crossing:
        return ""
    return describe(crossing[0]) if len(crossing) == 1 else f"{len(crossing)} tensors"
