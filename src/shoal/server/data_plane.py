"""The one implementation behind every API dialect: prompts as token ids in, text deltas and usage out."""

from __future__ import annotations

import asyncio
import secrets
import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from types import TracebackType

import msgspec

from shoal.core.request import Output, Request, RequestFinished, RequestId, TokenProduced
from shoal.errors import InvalidRequest, WorkerLost
from shoal.protocol.messages import Sampling
from shoal.server.choice import Choice, ChoiceDelta
from shoal.server.engine_thread import EngineThread, OutputStream
from shoal.server.metrics import RequestTimer, ServerMetrics
from shoal.server.seams import Engine, EngineStats, Tokenizer
from shoal.server.text_stream import TextStream

LONG_TEXT_CHARS = 16_384
"""Longer texts are tokenised in a thread. At the order of 1 MB/s of a byte-pair tokeniser this bounds the pause that
one prompt puts into everybody else's stream to a few hundredths of a second."""

NUM_SEEDS = 1 << 63
"""Seeds are 0 <= seed < 2**63, see `Sampling.seed`."""


class ContextLengthExceeded(InvalidRequest):
    """Prompt and output together do not fit the model's context."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationSpec:
    """One prompt of an API call and how to continue it."""

    prompt_ids: tuple[int, ...]
    max_tokens: int | None = None
    """output tokens at most, >= 1; None: what the context leaves"""
    n: int = 1
    """independent continuations, >= 1"""
    sampling: Sampling = field(default_factory=Sampling)
    """its seed is replaced, see `seed`"""
    seed: int | None = None
    """choice i uses seed + i; None: random"""
    stop: tuple[str, ...] = ()
    """the text ends before the first of these"""
    stop_token_ids: frozenset[int] = frozenset()
    """end the text, in addition to the model's own"""
    ignore_eos: bool = False
    """go on past the model's own end tokens"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Token counts of an API call."""

    prompt_tokens: int
    """each prompt once, whatever n is"""
    completion_tokens: int
    """of all choices, stop tokens included"""
    cached_tokens: int
    """prompt tokens that the first choice of each prompt took from the prefix index"""


class Generation:
    """A running API call: an async iterator of what each wake brought, to be used as an async context manager.

    Leaving the context cancels whatever still runs.
    """

    def __init__(
        self,
        engine: EngineThread,
        stream: OutputStream,
        choices: dict[RequestId, Choice],
        timers: dict[RequestId, RequestTimer],
        num_prompt_tokens: int,
        choices_per_prompt: Sequence[int],
    ) -> None:
        self._engine = engine
        self._stream = stream
        self._choices = choices
        self._timers = timers
        self._num_prompt_tokens = num_prompt_tokens
        self._choices_per_prompt = choices_per_prompt
        self._num_open = len(choices)

    async def __aenter__(self) -> Generation:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._engine.abandon(self._stream)
        for timer in self._timers.values():
            timer.finish("abort")

    async def __aiter__(self) -> AsyncIterator[list[ChoiceDelta]]:
        """Deltas, several of one wake together.

        Raises:
            WorkerLost: the engine ended a request with an error.
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
        return Usage(
            prompt_tokens=self._num_prompt_tokens,
            completion_tokens=sum(choice.num_tokens for choice in choices),
            cached_tokens=cached,
        )

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
            raise WorkerLost(output.message or "the request was lost with its worker")


class DataPlane:
    """Owns the engine's thread; everything a dialect needs to serve a call."""

    def __init__(
        self,
        engine: Engine,
        tokenizer: Tokenizer,
        *,
        metrics: ServerMetrics,
        draw_seed: Callable[[], int] = lambda: secrets.randbits(63),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.tokenizer = tokenizer
        self.metrics = metrics
        self.on_death: Callable[[str], None] | None = None
        """called once, in the event loop, with the reason for which the engine can do no more work"""
        self._engine = EngineThread(engine)
        self._draw_seed = draw_seed
        self._clock = clock
        self._encoder = ThreadPoolExecutor(max_workers=1, thread_name_prefix="shoal-tokenizer")

    @property
    def max_context(self) -> int:
        """Longest sequence, prompt and output together, in tokens."""
        return self._engine.max_context

    @property
    def failure(self) -> str | None:
        """Why the engine can do no more work; None while it can."""
        return self._engine.failure

    @property
    def last_output_s(self) -> float | None:
        """When the last token came; None before the first."""
        return self.metrics.last_token_s

    def start(self) -> None:
        """Start the engine's thread for the running event loop."""
        self._engine.start(on_death=self._died)

    async def close(self) -> None:
        """Stop the engine. Requests that are still open end with an error."""
        await self._engine.close()
        self._encoder.shutdown(wait=False)

    async def stats(self) -> EngineStats:
        """The engine's counters now. Raises WorkerLost."""
        return await self._engine.stats()

    def now_s(self) -> float:
        """The data plane's clock."""
        return self._clock()

    async def encode(self, text: str, *, add_special: bool) -> tuple[int, ...]:
        """Token ids of a text; long ones off the event loop."""
        if len(text) <= LONG_TEXT_CHARS:
            return tuple(self.tokenizer.encode(text, add_special=add_special))
        loop = asyncio.get_running_loop()
        return tuple(
            await loop.run_in_executor(self._encoder, lambda: self.tokenizer.encode(text, add_special=add_special))
        )

    async def generate(self, specs: Sequence[GenerationSpec]) -> Generation:
        """Start a call with one or more prompts; all of them are admitted or none.

        Choice i of prompt p has index p * n + i when every prompt asks for n choices.

        Raises:
            InvalidRequest, ContextLengthExceeded, CapacityError: a prompt cannot be served.
            WorkerLost: the engine can do no more work.
        """
        requests, choices, timers = self._expand(specs)
        stream = await self._engine.submit(requests)
        return Generation(
            self._engine,
            stream,
            choices,
            timers,
            num_prompt_tokens=sum(len(spec.prompt_ids) for spec in specs),
            choices_per_prompt=[spec.n for spec in specs],
        )

    async def send_canary(self) -> bool:
        """Generate one token outside all accounts but `last_token_s`; whether it came. Raises WorkerLost."""
        sampling = Sampling(temperature=0.0)
        request = Request(
            request_id=RequestId(f"canary-{uuid.uuid4().hex}"), prompt_ids=(0,), max_tokens=1, sampling=sampling
        )
        stream = await self._engine.submit([request])
        try:
            came = isinstance((await stream.take())[0], TokenProduced)
        finally:
            self._engine.abandon(stream)
        if came:
            self.metrics.last_token_s = self._clock()
        return came

    def _expand(
        self, specs: Sequence[GenerationSpec]
    ) -> tuple[list[Request], dict[RequestId, Choice], dict[RequestId, RequestTimer]]:
        call_id, arrival_s = uuid.uuid4().hex, self._clock()
        requests: list[Request] = []
        choices: dict[RequestId, Choice] = {}
        timers: dict[RequestId, RequestTimer] = {}
        for spec in specs:
            max_tokens = self._allowed_tokens(spec)
            for sibling in range(spec.n):
                index = len(requests)
                request = self._request(RequestId(f"{call_id}-{index}"), spec, sibling, max_tokens)
                requests.append(request)
                text = TextStream(self.tokenizer.detokenizer(spec.prompt_ids), spec.stop)
                choices[request.request_id] = Choice(index, text, request.stop_token_ids)
                timers[request.request_id] = self.metrics.timer(len(spec.prompt_ids), arrival_s, self._clock)
        return requests, choices, timers

    def _request(self, request_id: RequestId, spec: GenerationSpec, sibling: int, max_tokens: int) -> Request:
        seed = self._draw_seed() if spec.seed is None else spec.seed + sibling
        eos_token_ids: frozenset[int] = frozenset() if spec.ignore_eos else self.tokenizer.eos_token_ids
        return Request(
            request_id=request_id,
            prompt_ids=spec.prompt_ids,
            max_tokens=max_tokens,
            sampling=msgspec.structs.replace(spec.sampling, seed=seed % NUM_SEEDS),
            stop_token_ids=eos_token_ids | spec.stop_token_ids,
        )

    def _allowed_tokens(self, spec: GenerationSpec) -> int:
        """The output tokens the request may have. Raises InvalidRequest, ContextLengthExceeded."""
        num_prompt_tokens, num_context_tokens = len(spec.prompt_ids), self.max_context
        if not num_prompt_tokens:
            raise InvalidRequest("the prompt is empty: it must have at least one token", param="prompt")
        num_wanted_tokens = 1 if spec.max_tokens is None else spec.max_tokens
        if num_prompt_tokens + num_wanted_tokens > num_context_tokens:
            raise ContextLengthExceeded(
                f"This model's maximum context length is {num_context_tokens} tokens, but the prompt has "
                f"{num_prompt_tokens} and {num_wanted_tokens} more were asked for: shorten the prompt or lower "
                "max_tokens",
                param="prompt",
            )
        return num_context_tokens - num_prompt_tokens if spec.max_tokens is None else spec.max_tokens

    def _died(self, reason: str) -> None:
        if self.on_death is not None:
            self.on_death(reason)
