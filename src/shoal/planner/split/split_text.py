"""The text of a split, in the notation of `--split`."""

from __future__ import annotations

from collections.abc import Sequence

from shoal.core.plan.language import ReplicaPlan, StagePlan


def describe(replicas: Sequence[ReplicaPlan]) -> str:
    """The split in the notation of `--split` as far as it can express it; unlike replicas are joined by a plus."""
    return _join([_describe_replica(replica) for replica in replicas])


def describe_shares(replicas: Sequence[Sequence[tuple[int, ...]]]) -> str:
    """The text of a graph's split, from the shares of each stage's shards."""
    return _join(
        [_describe_stages(f"pp={len(stages)}", [_describe_group(shares) for shares in stages]) for stages in replicas]
    )


def _join(texts: Sequence[str]) -> str:
    if len(set(texts)) > 1:
        return " + ".join(texts)
    if len(texts) == 1:
        return texts[0]
    return f"dp={len(texts)}" if texts[0] == "1" else f"dp={len(texts)},{texts[0]}"


def _describe_replica(replica: ReplicaPlan) -> str:
    layers = ":".join(str(stage.num_layers) for stage in replica.stages)
    experts = [_describe_experts(stage) for stage in replica.stages]
    return _describe_stages(f"pp={layers}", [_describe_shards(stage) for stage in replica.stages], experts)


def _describe_stages(pipeline: str, groups: Sequence[str], experts: Sequence[str] = ()) -> str:
    """The text of a replica. `groups`, `experts`: the text of each stage's shards and experts; empty for one worker."""
    parts = [pipeline] if len(groups) > 1 else []
    for name, sizes in (("tp", groups), ("ep", experts)):
        if any(sizes):
            parts.append(f"{name}=" + (sizes[0] if len(set(sizes)) == 1 else "|".join(one or "1" for one in sizes)))
    return ",".join(parts) or "1"


def _describe_shards(stage: StagePlan) -> str:
    return _describe_group([shard.part.columns[1] - shard.part.columns[0] for shard in stage.shards])


def _describe_group(sizes: Sequence[int]) -> str:
    """The text of a group's sizes; empty for a single shard."""
    return "" if len(sizes) == 1 else _counts_text(sizes)


def _describe_experts(stage: StagePlan) -> str:
    """The number of whole experts of each shard, summed over layers if these differ; empty if experts are divided by
    columns."""
    if not any(shard.part.experts for shard in stage.shards):
        return ""
    held = [shard.part.experts[stage.first_layer : stage.last_layer] or shard.part.experts for shard in stage.shards]
    return _counts_text([sum(span.last - span.first for spans in layers for span in spans) for layers in held])


def _counts_text(counts: Sequence[int]) -> str:
    """The counts separated by colons; equal ones as the number of them."""
    return str(len(counts)) if len(set(counts)) == 1 else ":".join(map(str, counts))
