"""A stage rewritten for every rank and run in one thread, collectives by hand."""

from collections.abc import Mapping, Sequence

import numpy as np

from shoal.core.plan.graph import SplitReport
from shoal.model.graph.file.graph_file import GraphFile
from shoal.model.graph.stage.cuts import stage_interfaces
from shoal.model.graph.stage.session import GraphStage
from shoal.model.graph.stage.shard_session import ShardSegments
from shoal.model.graph.tensor_parallel.shard_model import ShardModel, shard_model
from shoal.protocol.stage_interface import StageInterface
from tests.model.graph.lockstep import run_lockstep

Arrays = Mapping[str, np.ndarray]


def whole_stage(graph: GraphFile) -> StageInterface:
    """The graph as one stage."""
    (stage,) = stage_interfaces(graph, [])
    return stage


def shard_models(graph: GraphFile, shares: Sequence[int]) -> list[ShardModel]:
    """Of every rank."""
    return [shard_model(graph, whole_stage(graph), shares, rank) for rank in range(len(shares))]


def run_ranks(
    graph: GraphFile, shares: Sequence[int], arrays: Arrays
) -> tuple[list[dict[str, np.ndarray]], SplitReport]:
    """Every rank's outputs, and what was split."""
    report = shard_model(graph, whole_stage(graph), shares, 0).report
    return run_lockstep(_segments(graph, whole_stage(graph), shares), arrays), report


def run_split(
    graph: GraphFile, boundaries: Sequence[int], shares: Sequence[int], arrays: Arrays
) -> dict[str, np.ndarray]:
    """The graph's outputs, from stages one after the other, each as the workers have it."""
    values = dict(arrays)
    for stage in stage_interfaces(graph, boundaries):
        taken = {one.spec.name: values[one.spec.name] for one in stage.inputs}
        if len(shares) == 1:
            values |= GraphStage(graph, stage, threads=1).run(taken)
        else:
            values |= run_lockstep(_segments(graph, stage, shares), taken)[0]
    return {spec.name: values[spec.name] for spec in graph.outputs}


def _segments(graph: GraphFile, stage: StageInterface, shares: Sequence[int]) -> list[ShardSegments]:
    shards = [shard_model(graph, stage, shares, rank).model for rank in range(len(shares))]
    return [ShardSegments(shard, stage.inputs, stage.outputs, folder=graph.folder, threads=1) for shard in shards]


def assert_close(found: Sequence[Arrays], expected: Arrays, tolerance: float) -> None:
    """Every rank has the whole: the same bits on all, the reference's numbers within `tolerance` of the largest."""
    for outputs in found:
        assert list(outputs) == list(expected)
        for name, values in expected.items():
            assert (outputs[name].dtype, outputs[name].shape) == (values.dtype, values.shape), name
            np.testing.assert_array_equal(outputs[name], found[0][name], err_msg=name)
            if values.dtype.kind == "f":
                largest = max(1.0, float(np.abs(values).max(initial=0)))
                assert np.abs(outputs[name] - values).max(initial=0) <= tolerance * largest, name
            else:
                np.testing.assert_array_equal(outputs[name], values, err_msg=name)
