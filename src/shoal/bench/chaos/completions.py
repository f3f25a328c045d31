"""Completions with reproducible answers: the same body always gets the same answer, even if workers are killed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from shoal.bench.chaos.answer import ChaosAnswer
from shoal.bench.chaos.config import ChaosConfig
from shoal.bench.event_stream import Endpoint, parse_endpoint, post_for_events
from shoal.bench.load import Load, prompts

_LOGPROBS_EVERY = 4
"""One of so many requests asks for log-probabilities, which are also compared."""


class StreamedAnswer(ChaosAnswer):
    """An answer that is assembled from the events of a stream."""

    __slots__ = ()

    def on_event(self, data: bytes, received_s: float) -> None:
        """Take the data of one event."""
        if data == b"[DONE]":
            return
        event = _decode(data)
        for choice in event.choices:
            self.arrivals_s.append(received_s)
            self.text += choice.text
            self.finish_reason = choice.finish_reason or self.finish_reason
            if choice.logprobs is not None:
                self.token_logprobs += choice.logprobs.token_logprobs
        if event.usage is not None:
            self.num_tokens = event.usage.completion_tokens
        if event.error is not None:
            self.error = str(event.error)


class _Logprobs(msgspec.Struct):
    token_logprobs: list[float]


class _Choice(msgspec.Struct):
    text: str
    finish_reason: str | None = None
    logprobs: _Logprobs | None = None


class _Usage(msgspec.Struct):
    completion_tokens: int


class _Event(msgspec.Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: Any = None


_decode = msgspec.json.Decoder(_Event).decode


def question_prompts(config: ChaosConfig, model: str) -> list[str]:
    """The prompts of all requests, made of random words."""
    load = Load(
        base_url="",
        model=model,
        concurrency=config.clients,
        num_prompts=config.num_requests,
        prompt_tokens=config.prompt_tokens,
        seed=config.seed,
        prompt_kind="text",
        num_warmups=0,
    )
    return [str(prompt) for prompt in prompts(load)]


def request_bodies(config: ChaosConfig, model: str) -> list[bytes]:
    """Requests for streamed completions, alternately greedy and sampled with a seed, in turn of the model and each
    adapter."""
    return [_body(config, model, index, prompt) for index, prompt in enumerate(question_prompts(config, model))]


class CompletionQuestions:
    """Implements `bench.chaos.questions.Questions`."""

    metrics_prefix = "shoal:"

    def __init__(self, config: ChaosConfig, url: str, model: str) -> None:
        self._endpoint = parse_endpoint(url, "/v1/completions")
        self._bodies = request_bodies(config, model)

    def __len__(self) -> int:
        return len(self._bodies)

    async def ask(self, index: int, clock: Callable[[], float]) -> ChaosAnswer:
        """See `Questions.ask`."""
        return await ask_for_stream(self._endpoint, self._bodies[index], StreamedAnswer(started_s=clock()), clock)


async def ask_for_stream(
    endpoint: Endpoint, body: bytes, answer: StreamedAnswer, clock: Callable[[], float]
) -> ChaosAnswer:
    """Send a request and read the answer to its end. Errors are stored in the answer. `clock` is
    `time.perf_counter`."""
    try:
        status, rest = await post_for_events(endpoint, body, api_key=None, on_event=answer.on_event)
        if status != 200:
            answer.error = f"HTTP {status}: {rest[:500].decode(errors='replace')}"
        elif answer.error is None and answer.finish_reason is None:
            answer.error = "the stream ended early"
    except (OSError, msgspec.MsgspecError) as error:
        answer.error = f"{type(error).__name__}: {error}"
    answer.ended_s = clock()
    return answer


def _body(config: ChaosConfig, model: str, index: int, prompt: str) -> bytes:
    fields: dict[str, Any] = {
        "model": (model, *config.adapters)[index // 2 % (len(config.adapters) + 1)],
        "prompt": prompt,
        "max_tokens": config.output_tokens,
        "temperature": 0.0 if index % 2 == 0 else 1.0,
        "top_p": 0.95,
        "seed": config.seed + index,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if index % _LOGPROBS_EVERY >= _LOGPROBS_EVERY - 2:
        fields["logprobs"] = 1
    return msgspec.json.encode(fields)
