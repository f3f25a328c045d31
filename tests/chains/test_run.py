"""Chains over a runner without processes."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shoal.arrays import Array
from shoal.chains.definition import Chain, parse_chain
from shoal.chains.run import run_chain
from shoal.chains.steps import FunctionStep
from shoal.errors import InvalidRequest, RequestError, ShoalError
from tests.chains import functions


class Runner:
    """Doubles what graphs get. A step called `late` waits until `early` has run."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.early = asyncio.Event()
        self.is_cancelled = False

    async def run_graph(self, model: str, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        (array,) = inputs.values()
        if array.size > 4:
            raise InvalidRequest("too large")
        return {"out": array * 2}

    async def call_function(self, step: FunctionStep, values: Mapping[str, Any]) -> Sequence[Any]:
        self.calls.append(step.name)
        if step.name == "late":
            try:
                await self.early.wait()
            except asyncio.CancelledError:
                self.is_cancelled = True
                raise
        if step.name == "early":
            self.early.set()
        if step.function == "wrong":
            raise RequestError("wrong")
        result = getattr(functions, step.function)(**values)
        return result if len(step.outputs) > 1 else (result,)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "double.onnx").touch()
    (tmp_path / "f.py").touch()
    return tmp_path


def chain_of(folder: Path, steps: list[dict[str, Any]], outputs: list[str], kind: str = "text") -> Chain:
    data = {"inputs": {"text" if kind == "text" else "x": kind}, "steps": steps, "outputs": outputs}
    return parse_chain(data, folder / "chain.yaml")


def call(function: str, inputs: list[str], outputs: list[str], **more: Any) -> dict[str, Any]:
    return {"call": f"f.py:{function}", "inputs": inputs, "outputs": outputs, **more}


DOUBLE = {"model": "double.onnx", "inputs": {"in": "x"}, "outputs": {"y": "out"}}


def outputs_of(chain: Chain, given: Mapping[str, Any], runner: Runner | None = None) -> dict[str, Any]:
    async def run() -> dict[str, Any]:
        return await run_chain(chain, runner or Runner(), given)

    return asyncio.run(run())


@pytest.mark.parametrize("text", ["", "one", "many words here"])
def test_a_step_runs_over_none_one_or_many(folder: Path, text: str) -> None:
    words = call("words", ["text"], ["word", "count"])
    loud = call("loud", ["word"], ["shouts"], each=["word"])
    found = outputs_of(chain_of(folder, [words, loud], ["shouts", "count", "text"]), {"text": text})
    assert found == {"shouts": text.upper().split(), "count": len(text.split()), "text": text}


def test_graphs_and_functions(folder: Path) -> None:
    half = call("half", ["x"], ["z"])
    found = outputs_of(chain_of(folder, [DOUBLE, half], ["y", "z"], "tensor"), {"x": np.arange(3.0)})
    assert found["y"].tolist() == [0, 2, 4]
    assert found["z"].tolist() == [0, 0.5, 1]


def test_steps_that_do_not_wait_for_each_other_run_at_once(folder: Path) -> None:
    late = call("half", ["x"], ["a"], name="late")
    early = call("half", ["x"], ["b"], name="early")
    assert outputs_of(chain_of(folder, [late, early], ["a", "b"], "tensor"), {"x": 2.0}) == {"a": 1.0, "b": 1.0}


def test_the_first_error_ends_the_others(folder: Path) -> None:
    async def run() -> bool:
        runner = Runner()
        late = call("half", ["x"], ["a"], name="late")
        wrong = call("wrong", ["x"], ["b"])
        with pytest.raises(RequestError, match=r"^wrong$"):
            await run_chain(chain_of(folder, [late, wrong], ["a", "b"], "tensor"), runner, {"x": 2.0})
        return runner.is_cancelled

    assert asyncio.run(run())


@pytest.mark.parametrize(
    ("steps", "given", "said"),
    [
        ([DOUBLE], [np.zeros(1)], r"needs an array, but 'x' is a list: say `each: \[x\]`"),
        ([DOUBLE], "text", "needs an array, but 'x' is a str"),
        ([DOUBLE], np.zeros(5), "step 'double': too large"),
        ([{**DOUBLE, "outputs": {"y": "exit"}}], np.zeros(1), "the graph has no output 'exit': it has 'out'"),
        ([{**DOUBLE, "each": ["x"]}], np.zeros(1), "'x' is not a list"),
        ([{**DOUBLE, "each": ["x"]}], [np.zeros(1)] * 5000, "a list of 5000 items"),
    ],
)
def test_values_that_do_not_fit(folder: Path, steps: list[dict[str, Any]], given: Any, said: str) -> None:
    with pytest.raises(ShoalError, match=said):
        outputs_of(chain_of(folder, steps, ["y"], "tensor"), {"x": given})


def test_lists_of_different_lengths(folder: Path) -> None:
    step = call("half", ["x", "y"], ["z"], each=["x", "y"])
    data = {"inputs": {"x": "tensor", "y": "tensor"}, "steps": [step], "outputs": ["z"]}
    with pytest.raises(RequestError, match=r"differ in length: \[1, 2\] items"):
        outputs_of(parse_chain(data, folder / "chain.yaml"), {"x": ["a", "b"], "y": ["c"]})
