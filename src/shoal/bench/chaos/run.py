"""Send requests to a server while killing its workers, and compare every answer with the one without kills."""

from __future__ import annotations

import asyncio
import itertools
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import httpx
import uvloop

from shoal.arrays import Array
from shoal.bench.chaos.answer import ChaosAnswer
from shoal.bench.chaos.completions import CompletionQuestions
from shoal.bench.chaos.config import ChaosConfig
from shoal.bench.chaos.guided import GuidedQuestions
from shoal.bench.chaos.inferences import InferenceQuestions
from shoal.bench.chaos.killer import Killer
from shoal.bench.chaos.questions import Questions
from shoal.bench.chaos.report import AnswerComparison, ChaosReport, summarize
from shoal.bench.chaos.resources import resources_of
from shoal.bench.chaos.watcher import Watcher
from shoal.errors import ConfigError
from shoal.server.switch.server_process import MODEL_NAME, running_server

_SCRAPE_TIMEOUT_S = 10.0

Progress = Callable[[int, int], None]
"""Called with the numbers of ended and of all requests; each counts once without kills and once with them."""


def run_chaos(
    config: ChaosConfig, on_progress: Progress | None = None, inputs: Mapping[str, Array] | None = None
) -> ChaosReport:
    """Do a whole run in a new event loop: first without kills, then with them.

    Args:
        config: the settings of the run.
        on_progress: called whenever a request has ended.
        inputs: rows for an ONNX graph, along the first axes; None: the model is a language model.

    Raises:
        ConfigError: the server failed a request without kills.
        WorkerLost: it did not start, or did not recover.
    """
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        try:
            return runner.run(_run(config, on_progress or (lambda done, total: None), inputs))
        except asyncio.CancelledError:  # by SIGTERM, see `_run`
            raise KeyboardInterrupt from None


async def _run(config: ChaosConfig, on_progress: Progress, inputs: Mapping[str, Array] | None) -> ChaosReport:
    own = asyncio.current_task()
    assert own is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, own.cancel)  # the server must not outlive this
    async with (
        running_server(config.model, config.server_options) as server,
        httpx.AsyncClient(timeout=_SCRAPE_TIMEOUT_S, limits=httpx.Limits(max_connections=None)) as client,
    ):
        questions: Questions
        if inputs is not None:
            questions = InferenceQuestions(client, config, server.url, MODEL_NAME, inputs)
        elif config.guided:
            questions = GuidedQuestions(config, server.url, MODEL_NAME)
        else:
            questions = CompletionQuestions(config, server.url, MODEL_NAME)
        undisturbed = await _undisturbed(config, questions, on_progress)
        killer = Killer(config, server)
        watcher = Watcher(server, killer, client, questions.metrics_prefix)
        await watcher.look()
        before = resources_of(server.pid)
        comparisons = await _disturbed(config, questions, undisturbed, (killer, watcher), on_progress)
        await watcher.wait_until_whole(
            lambda: _ask_all(config, questions, range(config.clients), lambda index, answer: None)
        )
        after = resources_of(server.pid)
        status = await server.end()
    return summarize(
        comparisons,
        undisturbed,
        killer.kills,
        recoveries_s=watcher.recoveries_s,
        num_losses=watcher.num_losses,
        num_replays=watcher.grown("request_replays_total"),
        tokens_replayed=watcher.grown("replayed_tokens_total"),
        resources=(before, after),
        server_exit_status=status,
        is_stopping=config.signal_name == "stop",
    )


async def _undisturbed(config: ChaosConfig, questions: Questions, on_progress: Progress) -> list[ChaosAnswer]:
    """The answers to all requests without kills, in order. Raises ConfigError if a request fails."""
    answers: dict[int, ChaosAnswer] = {}

    def take(index: int, answer: ChaosAnswer) -> None:
        answers[index] = answer
        on_progress(len(answers), 2 * len(questions))

    await _ask_all(config, questions, range(len(questions)), take)
    error = next((answer.error for answer in answers.values() if answer.error is not None), None)
    if error is not None:
        raise ConfigError(f"the server cannot answer even without kills: {error}")
    return [answers[index] for index in range(len(questions))]


async def _disturbed(
    config: ChaosConfig,
    questions: Questions,
    undisturbed: Sequence[ChaosAnswer],
    disturbers: tuple[Killer, Watcher],
    on_progress: Progress,
) -> list[AnswerComparison]:
    comparisons: list[AnswerComparison] = []

    def take(index: int, answer: ChaosAnswer) -> None:
        comparisons.append(AnswerComparison(answer=answer, undisturbed=undisturbed[index]))
        num_done = len(questions) + len(comparisons)
        on_progress(num_done, max(2 * len(questions), num_done))

    tasks = [asyncio.create_task(disturber.run()) for disturber in disturbers]
    try:
        await _ask_all(config, questions, _numbers(len(questions), config.minutes), take)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    return comparisons


async def _ask_all(
    config: ChaosConfig,
    questions: Questions,
    numbers: Iterable[int],
    take: Callable[[int, ChaosAnswer], None],
) -> None:
    """Let each client send one request after the other until none is left."""
    waiting = iter(numbers)

    async def client() -> None:
        for index in waiting:
            take(index, await questions.ask(index, time.perf_counter))

    async with asyncio.TaskGroup() as tasks:
        for _ in range(config.clients):
            tasks.create_task(client())


def _numbers(count: int, minutes: float | None) -> Iterator[int]:
    """Request numbers: each once, or repeated until the time is over."""
    if minutes is None:
        yield from range(count)
        return
    end_s = time.perf_counter() + minutes * 60.0
    for index in itertools.cycle(range(count)):
        if time.perf_counter() >= end_s:
            return
        yield index
