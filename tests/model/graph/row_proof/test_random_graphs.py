"""Random graphs: what is proved holds in plain ONNX Runtime, and what holds is proved often enough to be of use."""

import random
from pathlib import Path

import onnx
from hypothesis import HealthCheck, event, given, settings

from shoal.model.graph.file.graph_file import open_graph
from shoal.model.graph.row_proof.proof import prove_rows
from shoal.model.graph.sample.batch_axes import guess_axes
from tests.model.graph.row_proof.random_graphs import STEPS, Step, differ, make_model, steps

_NUM_GRAPHS = 60
_SHARE_PROVED = 0.9
"""Of the graphs whose rows were not seen to differ; the rest are proofs that are too weak, or luck of the rows."""


def _is_proved(folder: Path, model: onnx.ModelProto) -> bool:
    path = folder / "random.onnx"
    onnx.save(model, path)
    graph = open_graph(path)
    return prove_rows(graph, guess_axes(graph.inputs, graph.outputs, {})).outputs == {"y": 0}


@given(steps())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_proved_holds(tmp_path: Path, steps: list[Step]) -> None:
    model = make_model(steps)
    is_proved = _is_proved(tmp_path, model)
    event(f"proved: {is_proved}")
    assert not (is_proved and differ(model))


def test_each_step_alone_is_proved_where_it_holds(tmp_path: Path) -> None:
    for text in range(len(STEPS)):
        for axis in (0, 1, 2):
            model = make_model([Step(text=text, first=0, second=0, axis=axis)])
            assert _is_proved(tmp_path, model) != differ(model), (STEPS[text], axis)


def test_what_holds_is_mostly_proved(tmp_path: Path) -> None:
    chance = random.Random(0)
    num_proved = num_same = 0
    for _ in range(_NUM_GRAPHS):
        drawn = [
            Step(text=chance.randrange(len(STEPS)), first=chance.randrange(8), second=chance.randrange(8), axis=axis)
            for axis in chance.choices((1, 2), k=chance.randint(1, 5))
        ]
        model = make_model(drawn)
        if not differ(model):
            num_same += 1
            num_proved += _is_proved(tmp_path, model)
    assert num_same > _NUM_GRAPHS / 4
    assert num_proved >= _SHARE_PROVED * num_same
