"""The load messages of planned replicas' workers, and the scheduler limits of language models."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from shoal.core.generation.scheduler_config import SchedulerConfig, prefill_chunk
from shoal.core.plan.graph import GraphReplicaPlan
from shoal.core.plan.language import Plan, ReplicaPlan
from shoal.core.plan.placement import WorkerPlacement
from shoal.errors import ModelLoadError
from shoal.protocol.graph_messages import LoadGraph
from shoal.protocol.language_messages import AdapterFile, LoadStage
from shoal.protocol.stage_config import StageConfig
from shoal.protocol.worker_messages import PROTOCOL_VERSION, FileState


def load_message(
    path: Path,
    plan: Plan,
    replica: ReplicaPlan,
    index: int,
    rank: int,
    *,
    num_layers: int,
    files: tuple[FileState, ...] = (),
    keep_weights: bool = True,
    adapters: tuple[AdapterFile, ...] = (),
) -> LoadStage:
    """The load message of shard `rank` of stage `index`. For the other arguments see LoadStage."""
    stage = replica.stages[index]
    shard = stage.shards[rank]
    machines = {one.machine for near in replica.stages[index : index + 2] for one in near.shards}
    return LoadStage(
        **_place(path, shard, index, rank, len(replica.stages), files),
        stage=StageConfig(
            first_layer=stage.first_layer,
            last_layer=stage.last_layer,
            precision=stage.precision,
            threads=shard.threads,
            num_blocks=replica.num_blocks,
            block_size=plan.block_size,
            max_step_tokens=plan.max_step_tokens,
            max_context=plan.max_context,
            num_states=0 if plan.has_memories else replica.num_states,
            num_memories=replica.num_states if plan.has_memories else 0,
            exact_activations=plan.exact_activations,
            part=shard.part if len(stage.shards) > 1 else None,
        ),
        num_layers=num_layers,
        num_shards=len(stage.shards),
        link_precision=plan.link_precision if len(machines) > 1 else "fp32",
        cpu_quota=shard.cpu_quota,
        keep_weights=keep_weights,
        adapters=adapters,
    )


def graph_load_message(
    path: Path, replica: GraphReplicaPlan, index: int, rank: int, *, files: tuple[FileState, ...] = ()
) -> LoadGraph:
    """The load message of shard `rank` of stage `index` of a graph. For the other arguments see LoadGraph."""
    stage = replica.stages[index]
    shard = stage.shards[rank]
    return LoadGraph(
        **_place(path, shard, index, rank, len(replica.stages), files),
        stage=stage.interface,
        shares=stage.shares,
        threads=shard.threads,
    )


def _place(
    path: Path, shard: WorkerPlacement, index: int, rank: int, num_stages: int, files: tuple[FileState, ...]
) -> dict[str, Any]:
    """The fields of `WorkerLoad`, which are the same for all kinds of work. Raises ModelLoadError."""
    try:
        os.fspath(path).encode()
    except UnicodeEncodeError as error:  # Python represents such bytes of a name by lone surrogates
        raise ModelLoadError(f"{path}: its name has bytes that are no UTF-8: rename it") from error
    return {
        "version": PROTOCOL_VERSION,
        "model_path": str(path),
        "stage_index": index,
        "num_stages": num_stages,
        "rank": rank,
        "cores": shard.cores,
        "files": files,
        "device": shard.device,
    }


def scheduler_config(plan: Plan, replica: ReplicaPlan) -> SchedulerConfig:
    """The limits of a replica's scheduler."""
    num_stages = len(replica.stages)
    return SchedulerConfig(
        block_size=plan.block_size,
        num_blocks=replica.num_blocks,
        max_seqs=plan.max_seqs,
        num_states=0 if plan.has_memories else replica.num_states,
        num_memories=replica.num_states if plan.has_memories else 0,
        max_step_tokens=plan.max_step_tokens,
        max_context=plan.max_context,
        num_micro_batches=num_stages,
        prefill_chunk_tokens=prefill_chunk(num_stages, plan.max_step_tokens),
    )
