"""Closed loops of streams on anything that serves them, each engine by its own way in."""

from __future__ import annotations

import json
import os
import urllib.request
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from memory import Memory, memory_of_children, watched
from processes import Failed, shoal_json

from engines.reading import Reading, Readings

PROMPT_TOKENS, OUTPUT_TOKENS = 128, 64
CONTEXT = 256
"""tokens a stream needs, rounded up"""
MODEL_NAME = "model"
_TIMEOUT_S = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamLoad:
    """Streams that each send a prompt, take the whole answer, greedy and without an end token, and send the next."""

    streams: int
    num_requests: int
    prompt_tokens: int = PROMPT_TOKENS
    output_tokens: int = OUTPUT_TOKENS

    def checked(self, num_output_tokens: int, duration_s: float) -> Reading:
        """The reading of a run. Raises Failed where an answer is missing or short: its speed would mean nothing."""
        if num_output_tokens != self.num_requests * self.output_tokens:
            raise Failed(f"{num_output_tokens} output tokens for {self}")
        tokens_per_s = num_output_tokens / duration_s
        computed = tokens_per_s * (self.prompt_tokens + self.output_tokens) / self.output_tokens
        return Reading(value=tokens_per_s, computed_tokens_per_s=computed, memory=memory_of_children())


class Served(Protocol):
    """An engine that is up."""

    def run(self, load: StreamLoad) -> Reading:
        """Run a load to its end; the value is output tokens/s. Raises Failed where it is not served."""
        ...

    def answer_once(self) -> None:
        """One short answer, for engines that are not timed."""
        ...


class HttpServer:
    """A server with OpenAI's /v1/completions. The clients are a process of their own."""

    def __init__(self, base_url: str) -> None:
        self.base_url = base_url

    def run(self, load: StreamLoad) -> Reading:
        """See `Served`. The prompts are a function of the number of streams and differ from each other."""
        lengths = ("--prompt-tokens", str(load.prompt_tokens), "--output-tokens", str(load.output_tokens))
        streams = ("--concurrency", str(load.streams), "--num-prompts", str(load.num_requests))
        server = ("--base-url", self.base_url, "--model", MODEL_NAME)
        run = shoal_json("bench", "serve", *server, *streams, *lengths)["runs"][0]
        return load.checked(run["total_output_tokens"], run["duration_s"])

    def answer_once(self) -> None:
        """See `Served`."""
        body = {"model": MODEL_NAME, "prompt": list(range(1000, 1000 + PROMPT_TOKENS)), "max_tokens": 8}
        request = urllib.request.Request(
            f"{self.base_url}/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:
            answer.read()


def run_streams(started: AbstractContextManager[Served], loads: Sequence[StreamLoad]) -> Readings:
    """Start an engine, run every load on it and end it."""
    with started as served:
        return {stream_label(load.streams): served.run(load) for load in loads}


def stream_label(streams: int) -> str:
    """Name of a load."""
    return f"{streams} streams" if streams > 1 else "1 stream"


def run_for_memory(started: AbstractContextManager[Served], file_bytes: int, allowance_bytes: int) -> Readings:
    """Memory over a file's bytes, less an allowance for each process: after an answer, and at the most until then."""

    def over_file(memory: Memory) -> Reading:
        beyond_bytes = memory.pss_bytes - allowance_bytes * memory.num_processes
        return Reading(value=beyond_bytes / file_bytes, memory=memory)

    with watched(is_thorough=True) as peak, started as served:
        served.answer_once()
        resident = memory_of_children()
    return {"resident": over_file(resident), "peak while loading": over_file(peak.memory)}


def environment(**defaults: str) -> dict[str, str]:
    """This process's environment, over defaults that the user may set otherwise."""
    return {**defaults, **os.environ}
