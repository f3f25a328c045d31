"""Plans as plain data for programs: the output of `--json` and `/status`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from shoal.core.plan.graph import GraphPlan, SplitReport
from shoal.core.plan.language import Plan


def plan_dict(plan: Plan) -> dict[str, Any]:
    """Every worker and what it holds."""
    return {
        "split": plan.split,
        "precision": plan.precision,
        "link_precision": plan.link_precision,
        "max_context": plan.max_context,
        "max_seqs": plan.max_seqs,
        "notes": list(plan.notes),
        "predicted": None if plan.predicted is None else asdict(plan.predicted),
        "forking_bytes": plan.forking_bytes,
        "workers": [
            {
                "replica": r,
                "stage": s,
                "shard": rank,
                "first_layer": stage.first_layer,
                "last_layer": stage.last_layer,
                "precision": stage.precision,
                "kv_heads": list(shard.part.kv_heads),
                "columns": list(shard.part.columns),
                "experts": [[list(span) for span in spans] for spans in shard.part.experts],
                "vocabulary": list(shard.part.vocabulary),
                "threads": shard.threads,
                "cores": list(shard.cores),
                "cpu_quota": shard.cpu_quota,
                "machine": shard.machine,
                "device": shard.device and shard.device.name,
                "weight_bytes": shard.weight_bytes,
                "kv_bytes": shard.kv_bytes,
                "state_bytes": shard.state_bytes,
                "process_bytes": shard.process_bytes,
            }
            for r, replica in enumerate(plan.replicas)
            for s, stage in enumerate(replica.stages)
            for rank, shard in enumerate(stage.shards)
        ],
    }


def graph_plan_dict(plan: GraphPlan) -> dict[str, Any]:
    """Every worker and what it holds."""
    return {
        "split": plan.split,
        "batch_axes": {**plan.batch.inputs, **plan.batch.outputs},
        "workers": [
            {
                "replica": r,
                "stage": s,
                "shard": rank,
                "first_node": stage.first_node,
                "last_node": stage.last_node,
                "threads": shard.threads,
                "cores": list(shard.cores),
                "machine": shard.machine,
                "device": shard.device and shard.device.name,
                "weight_bytes": shard.weight_bytes,
                "compute_s": stage.compute_s,
                "outputs": [one.spec.name for one in stage.outputs],
            }
            for r, replica in enumerate(plan.replicas)
            for s, stage in enumerate(replica.stages)
            for rank, shard in enumerate(stage.shards)
        ],
        "shards": None if plan.split_report is None else _split_dict(plan.split_report),
    }


def _split_dict(report: SplitReport) -> dict[str, Any]:
    weights, flops = split_shares(report)
    return {**asdict(report), "split_weight_share": weights, "split_flops_share": flops}


def split_shares(report: SplitReport) -> tuple[float, float]:
    """The part of the weights and of the arithmetic that is split, 0 to 1."""
    weights = report.split_weight_bytes / report.weight_bytes if report.weight_bytes else 0.0
    return weights, report.split_flops / report.flops if report.flops else 0.0
