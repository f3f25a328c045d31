"""Puts a load on an OpenAI-compatible server and measures the latencies of its clients.

Works with every server that streams /v1/completions: Shoal, vLLM, llama.cpp.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Any

import msgspec
import uvloop

from shoal.bench.event_stream import Endpoint, parse_endpoint, post_for_events
from shoal.bench.load import Load, arrival_times, prompts
from shoal.bench.serve_report import ServeReport, summarize
from shoal.errors import ConfigError


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0


class _Event(msgspec.Struct):
    """The fields of a chunk that are used here."""

    choices: list[msgspec.Raw] = []
    usage: _Usage | None = None
    error: Any = None


_decode = msgspec.json.Decoder(_Event).decode


@dataclass(slots=True, kw_only=True)
class RequestOutcome:
    """The result of one request. Mutable: filled in while it runs."""

    started_s: float
    """Time at which it was due to be sent. All times are of `time.perf_counter`."""
    arrivals_s: list[float] = field(default_factory=list[float])
    """Arrival times of the chunks with text. On the servers named above a chunk is a token, unless two came at once."""
    client: int = 0
    """Index of the client of a closed loop that sent it; 0 in an open loop."""
    prompt_tokens: int = 0
    output_tokens: int = 0
    error: str | None = None

    def on_event(self, data: bytes, received_s: float) -> None:
        """Take the data of one event."""
        if data == b"[DONE]":
            return
        event = _decode(data)
        if event.choices:
            self.arrivals_s.append(received_s)
        if event.usage is not None:
            self.prompt_tokens = event.usage.prompt_tokens
            self.output_tokens = event.usage.completion_tokens
        if event.error is not None:
            self.error = str(event.error)


def run_load(load: Load, *, on_progress: Callable[[int], None] | None = None) -> ServeReport:
    """Run the whole load in a new event loop and summarize it. Arguments and errors as of `run_requests`."""
    outcomes, duration_s = run_requests(load, on_progress=on_progress)
    return summarize(load, outcomes, duration_s=duration_s)


def run_requests(
    load: Load, *, on_progress: Callable[[int], None] | None = None
) -> tuple[Sequence[RequestOutcome], float]:
    """The results of all requests of a load, in the order of their ends, and the duration in seconds.

    Args:
        on_progress: called with the number of requests that have ended.

    Raises:
        ConfigError: the load is invalid, or a warm-up request fails.
    """
    if (load.concurrency is None) == (load.request_rate is None):
        raise ConfigError("a load has either a concurrency or a request rate")
    num_clients = 1 if load.concurrency is None else load.concurrency
    if min(num_clients, load.num_prompts, load.prompt_tokens, load.output_tokens) < 1:
        raise ConfigError("concurrency, number of prompts and token counts must be at least 1")
    if load.request_rate is not None and not 0.0 < load.request_rate < inf:
        raise ConfigError(f"the request rate must be more than 0 requests/s, not {load.request_rate:g}")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_run(load, on_progress or (lambda _: None)))


async def _run(load: Load, on_progress: Callable[[int], None]) -> tuple[Sequence[RequestOutcome], float]:
    endpoint = parse_endpoint(load.base_url, "/v1/completions")
    bodies = [_body(load, prompt) for prompt in prompts(load)]
    for body in bodies[: load.num_warmups]:
        outcome = await _send(load, endpoint, body, time.perf_counter())
        if outcome.error is not None:
            raise ConfigError(f"{load.base_url} did not serve the warm-up request: {outcome.error}")
    outcomes: list[RequestOutcome] = []

    async def answer(body: bytes, due_s: float, client: int) -> None:
        outcomes.append(await _send(load, endpoint, body, due_s, client))
        on_progress(len(outcomes))

    started_s = time.perf_counter()
    await _send_all(load, bodies[load.num_warmups :], answer, started_s)
    return outcomes, time.perf_counter() - started_s


async def _send_all(
    load: Load, bodies: Sequence[bytes], answer: Callable[[bytes, float, int], Awaitable[None]], started_s: float
) -> None:
    """Send all requests and wait until the last one is answered."""
    queue = iter(bodies)

    async def client(number: int) -> None:
        for body in queue:
            await answer(body, time.perf_counter(), number)

    async def visitor(body: bytes, due_s: float) -> None:
        await asyncio.sleep(due_s - time.perf_counter())
        await answer(body, due_s, 0)

    async with asyncio.TaskGroup() as tasks:
        for number in range(load.concurrency or 0):
            tasks.create_task(client(number))
        if load.request_rate is not None:
            times = arrival_times(load.request_rate, len(bodies), load.seed)
            for body, at_s in zip(bodies, times, strict=True):
                tasks.create_task(visitor(body, started_s + at_s))


async def _send(load: Load, endpoint: Endpoint, body: bytes, due_s: float, client: int = 0) -> RequestOutcome:
    outcome = RequestOutcome(started_s=due_s, client=client)
    try:
        async with asyncio.timeout(load.timeout_s):
            status, answer = await post_for_events(endpoint, body, api_key=load.api_key, on_event=outcome.on_event)
        if status != 200:
            outcome.error = f"HTTP {status}: {answer[:500].decode(errors='replace')}"
        elif not outcome.arrivals_s and outcome.error is None:
            outcome.error = "the stream held no tokens"
    except (OSError, TimeoutError, msgspec.MsgspecError) as error:
        outcome.error = f"{type(error).__name__}: {error}"
    outcome.output_tokens = outcome.output_tokens or len(outcome.arrivals_s)
    outcome.prompt_tokens = outcome.prompt_tokens or load.prompt_tokens
    return outcome


def _body(load: Load, prompt: list[int] | str) -> bytes:
    fields = {
        "model": load.model,
        "prompt": prompt,
        "max_tokens": load.output_tokens,
        "temperature": 0.0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    return msgspec.json.encode(fields)
