"""What the commands print about an ONNX graph."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from shoal.core.graph_plan import GraphPlan, GraphStagePlan, TensorSpec

_MB = 1e6


def describe(spec: TensorSpec) -> str:
    """`x float32 [N, 3, 224, 224]`."""
    if spec.shape is None:
        return f"{spec.name} {spec.dtype}"
    dims = ", ".join("?" if dim is None else str(dim) for dim in spec.shape)
    return f"{spec.name} {spec.dtype} [{dims}]"


def print_graph_plan(plan: GraphPlan) -> None:
    """The plan as a small table on stderr."""
    table = Table(title=f"{escape(plan.model)}  split {plan.split}  {_batch(plan)}", title_justify="left")
    for column in ("worker", "nodes", "threads", "cores", "weights", "time", "hands on"):
        table.add_column(column, justify="left" if column in ("worker", "hands on") else "right")
    for r, replica in enumerate(plan.replicas):
        total_s = sum(stage.compute_s or 0.0 for stage in replica.stages)
        for s, stage in enumerate(replica.stages):
            table.add_row(
                f"replica {r} stage {s}",
                f"{stage.first_node}-{stage.last_node - 1}",
                str(stage.threads),
                ",".join(map(str, stage.cores)) or "any",
                f"{stage.weight_bytes / _MB:.1f} MB",
                f"{(stage.compute_s or 0.0) / total_s:.0%}" if total_s else "",
                _crossing(stage),
            )
    Console(stderr=True).print(table)


def graph_plan_dict(plan: GraphPlan) -> dict[str, Any]:
    """The plan as plain data."""
    return {
        "split": plan.split,
        "batch_axes": {**plan.batch.inputs, **plan.batch.outputs},
        "workers": [
            {
                "replica": r,
                "stage": s,
                "first_node": stage.first_node,
                "last_node": stage.last_node,
                "threads": stage.threads,
                "cores": list(stage.cores),
                "weight_bytes": stage.weight_bytes,
                "compute_s": stage.compute_s,
                "outputs": [one.spec.name for one in stage.outputs],
            }
            for r, replica in enumerate(plan.replicas)
            for s, stage in enumerate(replica.stages)
        ],
    }


def _batch(plan: GraphPlan) -> str:
    if not plan.batch.is_batched:
        return "not batched"
    return "any number of rows" if plan.batch.rows is None else f"{plan.batch.rows} rows at a time"


def _crossing(stage: GraphStagePlan) -> str:
    crossing = [one.spec for one in stage.outputs if any(consumer >= 0 for consumer in one.consumers)]
    if not crossing:
        return ""
    return escape(describe(crossing[0])) if len(crossing) == 1 else f"{len(crossing)} tensors"
