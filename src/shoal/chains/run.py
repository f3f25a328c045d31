"""Runs one request through a chain: each step starts as soon as the values that it uses exist."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, assert_never

import numpy as np

from shoal.arrays import F32, Array
from shoal.chains.definition import Chain
from shoal.chains.read_steps import used_by
from shoal.chains.steps import EncoderStep, FunctionStep, GraphStep, LanguageStep, SpeechStep, Step
from shoal.chains.texts import answer_prompt, encode_texts
from shoal.errors import InvalidRequest, RequestError, ShoalError

MAX_ITEMS = 4096
"""Most items of a list that a step runs over."""


class StepRunner(Protocol):
    """Computes steps."""

    async def run_graph(self, model: str, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """The outputs of a served graph. Raises ShoalError."""
        ...

    async def call_function(self, step: FunctionStep, values: Mapping[str, Any]) -> Sequence[Any]:
        """A function's values, one for each of the step's outputs. Raises ShoalError."""
        ...

    async def encode(self, step: EncoderStep, texts: Sequence[str], query: str | None) -> F32:
        """Vectors [N, H] of texts or, with a query, scores [N] of how well they answer it. Raises ShoalError."""
        ...

    async def transcribe(self, step: SpeechStep, samples_S: F32) -> tuple[str, list[dict[str, Any]]]:
        """The transcript of a sound, and its segments. Raises ShoalError."""
        ...

    async def answer(self, step: LanguageStep, prompt: str, system: str) -> str:
        """The answer of a language model. Raises ShoalError."""
        ...


async def run_chain(chain: Chain, runner: StepRunner, given: Mapping[str, Any]) -> dict[str, Any]:
    """Run the chain. Returns its outputs.

    Args:
        chain: what to run.
        runner: computes the steps; steps that do not depend on each other run at the same time.
        given: the chain's inputs, decoded.

    Raises:
        ShoalError: the first error of a step; the other steps are then cancelled.
    """
    loop = asyncio.get_running_loop()
    values: dict[str, asyncio.Future[Any]] = {}
    for name, value in given.items():
        values[name] = loop.create_future()
        values[name].set_result(value)
    for step in chain.steps:
        values |= {name: loop.create_future() for name in step.outputs}
    try:
        async with asyncio.TaskGroup() as tasks:
            for step in chain.steps:
                tasks.create_task(_run_step(step, runner, values))
    except* ShoalError as group:
        raise _first(group) from None
    return {name: values[name].result() for name in chain.outputs}


async def _run_step(step: Step, runner: StepRunner, values: Mapping[str, asyncio.Future[Any]]) -> None:
    used = {name: await values[name] for name in used_by(step)}
    if step.each:
        outputs = await _run_each(step, runner, used)
    else:
        outputs = await _run_once(step, runner, used)
    for name, value in zip(step.outputs, outputs, strict=True):
        values[name].set_result(value)


async def _run_each(step: Step, runner: StepRunner, used: Mapping[str, Any]) -> list[list[Any]]:
    """Run the step over every item of its lists. Returns a list for each output."""
    lists = {name: used[name] for name in step.each}
    for name, items in lists.items():
        if not isinstance(items, list):
            raise RequestError(f"step {step.name!r}: {name!r} is not a list, although `each` names it")
    counts = {len(items) for items in lists.values()}
    if len(counts) > 1:
        raise RequestError(f"step {step.name!r}: the lists that it runs over differ in length: {sorted(counts)} items")
    (count,) = counts
    if count > MAX_ITEMS:
        raise RequestError(f"step {step.name!r}: a list of {count} items; at most {MAX_ITEMS}")
    async with asyncio.TaskGroup() as tasks:
        runs = [
            tasks.create_task(
                _run_once(step, runner, {**used, **{name: items[index] for name, items in lists.items()}})
            )
            for index in range(count)
        ]
    results = [run.result() for run in runs]
    return [[result[place] for result in results] for place in range(len(step.outputs))]


async def _run_once(step: Step, runner: StepRunner, used: Mapping[str, Any]) -> Sequence[Any]:
    match step:
        case FunctionStep():
            return await runner.call_function(step, used)
        case GraphStep():
            return await _run_graph(step, runner, used)
        case EncoderStep():
            return await encode_texts(step, runner.encode, used)
        case LanguageStep():
            return [await answer_prompt(step, runner.answer, used)]
        case SpeechStep():
            return await _transcribe(step, runner, used[step.audio])
        case _:
            assert_never(step)


async def _transcribe(step: SpeechStep, runner: StepRunner, samples: Any) -> Sequence[Any]:
    if not isinstance(samples, np.ndarray) or samples.ndim != 1 or not np.issubdtype(samples.dtype, np.floating):
        raise RequestError(f"step {step.name!r}: {step.audio!r} must be samples, like an input of the kind `audio`")
    return (await runner.transcribe(step, samples.astype(np.float32, copy=False)))[: len(step.outputs)]


async def _run_graph(step: GraphStep, runner: StepRunner, used: Mapping[str, Any]) -> Sequence[Any]:
    for name in step.inputs.values():
        if not isinstance(used[name], np.ndarray):
            kind = type(used[name]).__name__
            hint = f": say `each: [{name}]` to run over its items" if kind == "list" else ""
            raise RequestError(f"step {step.name!r} needs an array, but {name!r} is a {kind}{hint}")
    try:
        outputs = await runner.run_graph(step.model.stem, {key: used[name] for key, name in step.inputs.items()})
    except InvalidRequest as error:
        raise InvalidRequest(f"step {step.name!r}: {error}", error.param) from None
    for name in step.outputs.values():
        if name not in outputs:
            known = ", ".join(map(repr, outputs))
            raise RequestError(f"step {step.name!r}: the graph has no output {name!r}: it has {known}")
    return [outputs[name] for name in step.outputs.values()]


def _first(group: BaseExceptionGroup[ShoalError]) -> ShoalError:
    """The first error in a group; groups contain groups if a step runs over a list."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, ShoalError)
    return error
