"""Shoal itself, from the tree that this file lies in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from memory import Memory, watched
from processes import SHOAL, finish_json, free_port, running, start_shoal_json

from engines.first_token import time_to_first_output
from engines.reading import Reading
from engines.streams import CONTEXT, MODEL_NAME, HttpServer, StreamLoad

_NUM_LONE_REQUESTS = 3


class Shoal:
    """Shoal with one model, which may be called anything that Shoal understands."""

    def __init__(self, model: str) -> None:
        self._model = model

    def prefill(self, prompt_tokens: int, *, split: str, threads: int) -> Reading:
        """Prompt tokens/s of single prompts."""
        load = StreamLoad(streams=1, num_requests=_NUM_LONE_REQUESTS, prompt_tokens=prompt_tokens, output_tokens=1)
        result, memory = self._bench(load, split, threads)
        tokens_per_s = prompt_tokens / result["ttft_s"]
        return Reading(value=tokens_per_s, computed_tokens_per_s=tokens_per_s, memory=memory)

    def decode(self, output_tokens: int, *, split: str, threads: int, depth: int = 8) -> Reading:
        """Output tokens/s of one stream, without its prompt, which has `depth` tokens."""
        load = StreamLoad(streams=1, num_requests=_NUM_LONE_REQUESTS, prompt_tokens=depth, output_tokens=output_tokens)
        result, memory = self._bench(load, split, threads)
        return Reading(value=1 / result["tpot_s"], computed_tokens_per_s=1 / result["tpot_s"], memory=memory)

    def throughput(self, load: StreamLoad, *, split: str, threads: int) -> Reading:
        """Output tokens/s of a closed loop on the engine, without HTTP."""
        result, memory = self._bench(load, split, threads)
        tokens_per_s, computed = result["output_tokens_per_s"], result["total_tokens_per_s"]
        return Reading(value=tokens_per_s, computed_tokens_per_s=computed, memory=memory)

    def first_token(self) -> Reading:
        """Seconds from starting `shoal run` to its first output."""
        return time_to_first_output([*SHOAL, "run", self._model, "--prompt", "Hi", "--max-tokens", "1"])

    @contextmanager
    def serving(self, *, split: str, threads: int, slots: int, context: int = CONTEXT) -> Iterator[HttpServer]:
        """A server with room for so many streams, each of `context` tokens."""
        port = free_port()
        room = ("--max-seqs", str(slots), "--max-context", str(context))
        command = [*SHOAL, "serve", self._model, "--split", split, "--threads", str(threads), *room]
        command += ["--port", str(port), "--name", MODEL_NAME]
        with running(command, health_url=f"http://127.0.0.1:{port}/health"):
            yield HttpServer(f"http://127.0.0.1:{port}")

    def _bench(self, load: StreamLoad, split: str, threads: int) -> tuple[dict[str, Any], Memory]:
        """What `shoal bench throughput` says, and the peak of its memory."""
        options = ("--split", split, "--threads", str(threads))
        lengths = ("--prompt-tokens", str(load.prompt_tokens), "--output-tokens", str(load.output_tokens))
        streams = ("--concurrency", str(load.streams), "--num-prompts", str(load.num_requests))
        with (
            start_shoal_json("bench", "throughput", self._model, *options, *streams, *lengths) as process,
            watched() as peak,
        ):
            return finish_json(process), peak.memory
