"""A call to a language model: its prompts and settings, and its running answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType

from shoal.core.sequences.pictures import Pictures
from shoal.core.sequences.request import NO_ADAPTER, Output, RequestFinished, RequestId, TokenProduced
from shoal.errors import DeadlineExceeded, RequestError, ShoalError, ShuttingDown, WorkerLost
from shoal.generation.engine_thread import EngineThread
from shoal.generation.output.choice import Choice, ChoiceDelta
from shoal.generation.output.output_stream import OutputStream
from shoal.generation.seams import Guide, Timer
from shoal.protocol.language_messages import Sampling


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationSpec:
    """One prompt of an API call and how to continue it."""

    prompt_ids: tuple[int, ...]
    max_tokens: int | None = None
    """The most output tokens, >= 1, and never more than the context leaves; None: as many as it leaves."""
    min_tokens: int = 0
    """Output tokens before which nothing ends the text, >= 0."""
    targets: tuple[int, ...] = ()
    """Given output tokens, which are scored instead of sampled; `max_tokens` and stop conditions are then ignored."""
    n: int = 1
    """Independent continuations, >= 1."""
    sampling: Sampling = field(default_factory=Sampling)
    """Sampling parameters; their seed is replaced, see `seed`."""
    seed: int | None = None
    """Choice i uses seed + i; None: random."""
    stop: tuple[str, ...] = ()
    """Stop strings: the text ends before the first of these."""
    stop_token_ids: frozenset[int] = frozenset()
    """Tokens that end the text, in addition to the model's own."""
    ignore_eos: bool = False
    """Whether to continue past the model's own end tokens."""
    shows_special: bool = False
    """Whether special tokens are part of the text, which tool calls are parsed from."""
    adapter: int = NO_ADAPTER
    """The index of the adapter."""
    pictures: Pictures | None = None
    """The pictures in the prompt."""
    guides: tuple[Guide, ...] = ()
    """Guides that constrain the outputs, one for each choice; empty: no constraint."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Token counts of an API call."""

    prompt_tokens: int
    """Prompt tokens; each prompt counts once, whatever n is."""
    completion_tokens: int
    """Output tokens of all choices, including stop tokens."""
    cached_tokens: int
    """Prompt tokens that the first choice of each prompt took from the prefix index."""
    first_token_s: float = 0.0
    """Seconds from the call's arrival to its first token."""
    last_token_s: float = 0.0
    """Seconds from the call's arrival to its last token."""


class Generation:
    """A running API call: an async iterator over lists of deltas, to be used as an async context manager.

    Leaving the context cancels the requests that still run.
    """

    def __init__(
        self,
        engine: EngineThread,
        stream: OutputStream,
        choices: dict[RequestId, Choice],
        timers: dict[RequestId, Timer],
        guides: Mapping[RequestId, Guide],
        *,
        num_prompt_tokens: int,
        choices_per_prompt: Sequence[int],
        arrival_s: float,
        timeout_s: float | None,
    ) -> None:
        self._engine = engine
        self._stream = stream
        self._choices = choices
        self._timers = timers
        self._guides = guides
        self._num_prompt_tokens = num_prompt_tokens
        self._choices_per_prompt = choices_per_prompt
        self._arrival_s = arrival_s
        self._num_open = len(choices)
        self._timeout_s = timeout_s
        self._alarm: asyncio.TimerHandle | None = None
        if timeout_s is not None:
            self._alarm = asyncio.get_running_loop().call_later(timeout_s, self._expire, timeout_s)

    async def __aenter__(self) -> Generation:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        self._engine.abandon(self._stream)
        for timer in self._timers.values():
            timer.finish("abort")

    async def __aiter__(self) -> AsyncIterator[list[ChoiceDelta]]:
        """Yield deltas; those of one wake-up come together.

        Raises:
            DeadlineExceeded: the call's time is up.
            RequestError: the engine cannot finish a request.
            WorkerLost: the engine can do no more work.
            ShuttingDown: the engine was stopped.
        """
        while self._num_open:
            touched = {output.request_id: self._take(output) for output in await self._stream.take()}
            deltas = [delta for choice in touched.values() if (delta := choice.take_delta()) is not None]
            if deltas:
                yield deltas

    @property
    def usage(self) -> Usage:
        """Token counts, final once the iteration has ended."""
        choices = list(self._choices.values())
        cached, first = 0, 0
        for num_choices in self._choices_per_prompt:
            cached += choices[first].num_cached_tokens
            first += num_choices
        first_s, last_s = self.token_times_s or (self._arrival_s, self._arrival_s)
        return Usage(
            prompt_tokens=self._num_prompt_tokens,
            completion_tokens=sum(choice.num_tokens for choice in choices),
            cached_tokens=cached,
            first_token_s=first_s - self._arrival_s,
            last_token_s=last_s - self._arrival_s,
        )

    @property
    def token_times_s(self) -> tuple[float, float] | None:
        """The times at which the engine produced the first and the latest token; None before the first."""
        first_s, last_s = self._stream.first_token_s, self._stream.last_token_s
        return None if first_s is None or last_s is None else (first_s, last_s)

    def _take(self, output: Output) -> Choice:
        choice = self._choices[output.request_id]
        if isinstance(output, TokenProduced):
            self._take_token(choice, output)
        else:
            self._end(choice, output)
        return choice

    def _take_token(self, choice: Choice, output: TokenProduced) -> None:
        if choice.finish_reason is None:
            self._timers[output.request_id].token()
            choice.add_token(output)
            if choice.finish_reason is not None:
                self._engine.cancel(output.request_id)

    def _end(self, choice: Choice, output: RequestFinished) -> None:
        self._num_open -= 1
        choice.end(output)
        self._timers[output.request_id].finish(choice.finish_reason or output.reason)
        if output.reason == "error":
            raise self._error_of(output.message)
        if (guide := self._guides.get(output.request_id)) is not None and guide.failure is not None:
            raise guide.failure

    def _error_of(self, message: str) -> ShoalError:
        """The error for the end of a request: its own, or that of an engine that has failed or was stopped."""
        if self._engine.is_closing:
            return ShuttingDown()
        if self._engine.failure is not None:
            return WorkerLost(message or self._engine.failure)
        return RequestError(message or "the request could not be finished")

    def _expire(self, timeout_s: float) -> None:
        """End the call because its time is up, even if its client does not read."""
        self._engine.abandon(self._stream)
        if any(choice.num_tokens for choice in self._choices.values()):
            error = DeadlineExceeded(f"the answer was not finished within {timeout_s:g} s")
        else:
            retry_after_s = self._engine.retry_after_s()
            error = DeadlineExceeded(f"the request has waited for {timeout_s:g} s, all of its time", retry_after_s)
        self._stream.fail(error)
