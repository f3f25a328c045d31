"""A long prompt that comes while other streams decode behind prompts of some length, and the same prompt once more."""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractContextManager, suppress
from itertools import pairwise

import httpx
from memory import memory_of_children
from processes import Failed

from engines.reading import Reading, Readings
from engines.streams import MODEL_NAME, HttpServer

STREAMS, STREAM_TOKENS = 8, 2048
"""those that decode, and the prompt tokens of each"""
LONG_TOKENS, SHARED_TOKENS = 6000, 5900
"""prompt tokens of the one that comes to them, and those that the next one shares with it"""
SLOTS = STREAMS + 1
GAP = f"between two tokens of {STREAMS} streams"
FIRST = f"first token of {LONG_TOKENS} beside them"
GAP_MEANWHILE, LONGEST_MEANWHILE = "between their tokens meanwhile", "longest such gap"
FIRST_SHARED = f"first token of a prompt that shares {SHARED_TOKENS} of them"
_STEADY_TOKENS = 24
"""of each stream, for the gaps before the long prompt comes"""
_MAX_TOKENS = 4096
"""more than a stream writes before it is closed"""
_FIRST_ID, _END_ID = 1000, 20_000
"""token ids that every vocabulary here has, none of them special"""
_TIMEOUT_S = 600.0


def run_long_prompts(started: AbstractContextManager[HttpServer]) -> Readings:
    """Start an engine, run the load on it and end it; milliseconds. Raises Failed where it takes too long."""
    with started as server:
        try:
            values = asyncio.run(asyncio.wait_for(_run(server.base_url), _TIMEOUT_S))
        except (TimeoutError, httpx.HTTPError) as error:
            raise Failed(f"the long prompts were not answered: {error!r}") from error
        memory = memory_of_children()
    return {load: Reading(value=value_s * 1e3, memory=memory) for load, value_s in values.items()}


class _Stream:
    """One answer. Mutable: `times_s` grows as it is read."""

    def __init__(self, client: httpx.AsyncClient, prompt: Sequence[int]) -> None:
        self._client = client
        self._prompt = list(prompt)
        self.times_s: list[float] = []
        """when each event came"""

    async def read(self) -> None:
        """Read to the end."""
        async for _ in self._events(_MAX_TOKENS):
            self.times_s.append(time.perf_counter())

    async def first_token_s(self) -> float:
        """Seconds until the first token, and no more of the answer."""
        begun_s = time.perf_counter()
        async for _ in self._events(4):
            self.times_s.append(time.perf_counter())
        if not self.times_s:
            raise Failed("an answer had no token")
        return self.times_s[0] - begun_s

    async def _events(self, max_tokens: int) -> AsyncIterator[str]:
        body = {"model": MODEL_NAME, "prompt": self._prompt, "max_tokens": max_tokens, "stream": True}
        body |= {"temperature": 0, "ignore_eos": True}
        async with self._client.stream("POST", "/v1/completions", json=body) as answer:
            if answer.status_code != httpx.codes.OK:
                raise Failed(f"status {answer.status_code}: {(await answer.aread())[:200]!r}")
            async for line in answer.aiter_lines():
                if line.startswith("data:") and not line.endswith("[DONE]"):
                    yield line


async def _run(base_url: str) -> dict[str, float]:
    """Seconds by load."""
    async with httpx.AsyncClient(base_url=base_url, timeout=_TIMEOUT_S) as client:
        streams = [_Stream(client, _prompt(number, STREAM_TOKENS)) for number in range(STREAMS)]
        reading = [asyncio.create_task(stream.read()) for stream in streams]
        try:
            await _until(reading, lambda: all(stream.times_s for stream in streams))
            all_decode_s = time.perf_counter()
            counts = [len(stream.times_s) for stream in streams]
            await _until(
                reading,
                lambda: all(
                    len(stream.times_s) >= count + _STEADY_TOKENS for stream, count in zip(streams, counts, strict=True)
                ),
            )
            comes_s = time.perf_counter()
            long = _prompt(STREAMS, LONG_TOKENS)
            first_s = await _Stream(client, long).first_token_s()
            there_s = comes_s + first_s
            await _until(reading, lambda: all(stream.times_s[-1] > there_s for stream in streams))
            other = long[:SHARED_TOKENS] + _prompt(STREAMS + 1, LONG_TOKENS - SHARED_TOKENS)
            shared_s = await _Stream(client, other).first_token_s()
        finally:
            for task in reading:
                task.cancel()
            for task in reading:
                with suppress(asyncio.CancelledError, httpx.HTTPError):
                    await task
    meanwhile = _gaps(streams, comes_s, there_s)
    return {
        GAP: statistics.median(_gaps(streams, all_decode_s, comes_s)),
        FIRST: first_s,
        GAP_MEANWHILE: statistics.median(meanwhile),
        LONGEST_MEANWHILE: max(meanwhile),
        FIRST_SHARED: shared_s,
    }


def _prompt(seed: int, num_tokens: int) -> list[int]:
    return random.Random(seed).choices(range(_FIRST_ID, _END_ID), k=num_tokens)


def _gaps(streams: Sequence[_Stream], first_s: float, end_s: float) -> list[float]:
    """Times between neighboring tokens of every stream that lie between two times, or partly so."""
    return [b - a for stream in streams for a, b in pairwise(stream.times_s) if b > first_s and a < end_s]


async def _until(reading: Sequence[asyncio.Task[None]], is_met: Callable[[], bool]) -> None:
    """Wait until the streams have come so far. Raises what ended one of them before."""
    while not is_met():
        for task in reading:
            if task.done():
                task.result()
                raise Failed("a stream ended before the others had come so far")
        await asyncio.sleep(0.005)
