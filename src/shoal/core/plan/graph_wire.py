"""A shard of a graph plan as the message that tells a worker to load it, and back."""

from __future__ import annotations

from shoal.core.plan.graph import GraphStagePlan, StageInput, StageOutput, TensorSpec
from shoal.protocol.graph_messages import LoadGraph, StageTensor, TensorType
from shoal.protocol.messages import PROTOCOL_VERSION, FileState


def load_message(
    stage: GraphStagePlan,
    rank: int,
    *,
    model_path: str,
    stage_index: int,
    num_stages: int,
    files: tuple[FileState, ...] = (),
) -> LoadGraph:
    """What to tell the worker that is this shard of the stage."""
    shard = stage.shards[rank]
    return LoadGraph(
        version=PROTOCOL_VERSION,
        model_path=model_path,
        first_node=stage.first_node,
        last_node=stage.last_node,
        stage_index=stage_index,
        num_stages=num_stages,
        inputs=tuple(StageTensor(type=_type(one.spec), peers=(one.source,)) for one in stage.inputs),
        outputs=tuple(StageTensor(type=_type(one.spec), peers=one.consumers) for one in stage.outputs),
        shares=stage.shares,
        rank=rank,
        threads=shard.threads,
        cores=shard.cores,
        files=files,
    )


def stage_inputs(load: LoadGraph) -> tuple[StageInput, ...]:
    """The inputs that the message names."""
    return tuple(StageInput(spec=_spec(one.type), source=one.peers[0]) for one in load.inputs)


def stage_outputs(load: LoadGraph) -> tuple[StageOutput, ...]:
    """The outputs that the message names."""
    return tuple(StageOutput(spec=_spec(one.type), consumers=one.peers) for one in load.outputs)


def _type(spec: TensorSpec) -> TensorType:
    return TensorType(name=spec.name, dtype=spec.dtype, shape=spec.shape)


def _spec(wire: TensorType) -> TensorSpec:
    return TensorSpec(name=wire.name, dtype=wire.dtype, shape=wire.shape)
