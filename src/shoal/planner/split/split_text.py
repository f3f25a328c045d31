"""A split in words, as `--split` takes them."""

from __future__ import annotations

from collections.abc import Sequence

from shoal.core.plan.language import ReplicaPlan, StagePlan


def describe(replicas: Sequence[ReplicaPlan]) -> str:
    """A split as `--split` would say it, as far as that goes: unlike replicas stand side by side with a plus."""
    texts = [_describe_replica(replica) for replica in replicas]
    if len(set(texts)) > 1:
        return " + ".join(texts)
    if len(texts) == 1:
        return texts[0]
    return f"dp={len(texts)}" if texts[0] == "1" else f"dp={len(texts)},{texts[0]}"


def _describe_replica(replica: ReplicaPlan) -> str:
    layers = ":".join(str(stage.num_layers) for stage in replica.stages)
    groups = [_describe_shards(stage) for stage in replica.stages]
    parts = [f"pp={layers}"] if len(replica.stages) > 1 else []
    if any(groups):
        parts.append("tp=" + (groups[0] if len(set(groups)) == 1 else "|".join(group or "1" for group in groups)))
    experts = [_describe_experts(stage) for stage in replica.stages]
    if any(experts):
        parts.append("ep=" + (experts[0] if len(set(experts)) == 1 else "|".join(one or "1" for one in experts)))
    return ",".join(parts) or "1"


def _describe_shards(stage: StagePlan) -> str:
    """Equal shares as their number, others as columns; nothing for a single worker."""
    if len(stage.shards) == 1:
        return ""
    columns = [shard.part.columns[1] - shard.part.columns[0] for shard in stage.shards]
    return _counts_text(columns)


def _describe_experts(stage: StagePlan) -> str:
    """How many experts each shard holds whole, of all layers where these differ; nothing where experts are cut."""
    if not any(shard.part.experts for shard in stage.shards):
        return ""
    held = [shard.part.experts[stage.first_layer : stage.last_layer] or shard.part.experts for shard in stage.shards]
    return _counts_text([sum(span.last - span.first for spans in layers for span in spans) for layers in held])


def _counts_text(counts: Sequence[int]) -> str:
    return str(len(counts)) if len(set(counts)) == 1 else ":".join(map(str, counts))
