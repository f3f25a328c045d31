"""The one implementation behind every API dialect: prompts as token ids in, text deltas and usage out."""

from __future__ import annotations

import asyncio
import secrets
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import msgspec

from shoal.core.generation.admission import AdmissionConfig
from shoal.core.sequences.request import NO_ADAPTER, Request, RequestFinished, RequestId, TokenProduced
from shoal.core.story import StoryEntry
from shoal.errors import DeadlineExceeded, InvalidRequest, QueueFull, RequestError
from shoal.generation.choice import Choice
from shoal.generation.engine_thread import EngineThread
from shoal.generation.generation import Generation, GenerationSpec
from shoal.generation.output_stream import OutputStream
from shoal.generation.readers import Readers
from shoal.generation.seams import (
    GenerationEngine,
    GenerationStats,
    Guide,
    Meter,
    PromptTokenizer,
    RequestObserver,
    Timer,
)
from shoal.generation.text_stream import TextStream, prepare_stops
from shoal.model.text.grammar.constraint import Constraint
from shoal.protocol.messages import Sampling

SHORT_TEXT_CHARS = 4096
"""Longer texts are tokenised in a thread. At the 0.4 MB/s of a byte-pair tokeniser over the text that is hardest for it
(digits and letters in turn, SmolLM2's vocabulary, 2 cores), this takes a hundredth of a second."""
NUM_SEEDS = 1 << 63
"""Seeds are 0 <= seed < 2**63, see `Sampling.seed`."""


class ContextLengthExceeded(InvalidRequest):
    """Prompt and output together do not fit the model's context."""


class DataPlane:
    """Owns the engine's thread; everything a dialect needs to serve a call."""

    def __init__(
        self,
        engine: GenerationEngine,
        tokenizer: PromptTokenizer,
        *,
        metrics: Meter,
        adapters: Sequence[str] = (),
        admission: AdmissionConfig | None = None,
        request_timeout_s: float | None = None,
        draw_seed: Callable[[], int] = lambda: secrets.randbits(63),
        clock: Callable[[], float] = time.monotonic,
        observer: RequestObserver | None = None,
    ) -> None:
        """
        Args:
            engine: does the work.
            tokenizer: of the model.
            metrics: what is counted.
            adapters: names of those that calls may ask for, by their numbers.
            admission: how much may wait; None: the default.
            request_timeout_s: the most time that any call may take; None: any.
            draw_seed: for requests without a seed.
            clock: monotonic seconds.
            observer: is told of every call's requests; None: nobody is.
        """
        self.tokenizer = tokenizer
        self.metrics = metrics
        self.adapters = tuple(adapters)
        """names, by their numbers"""
        self.on_death: Callable[[str], None] | None = None
        """called once, in the event loop, with the reason for which the engine can do no more work"""
        self._engine = EngineThread(engine, admission or AdmissionConfig(), clock)
        self._request_timeout_s = request_timeout_s
        self._draw_seed = draw_seed
        self._clock = clock
        self._observer = observer
        self.readers = Readers()
        """threads for what a call's own size makes long"""

    @property
    def max_context(self) -> int:
        """Longest sequence, prompt and output together, in tokens."""
        return self._engine.max_context

    @property
    def failure(self) -> str | None:
        """Why the engine can do no more work; None while it can."""
        return self._engine.failure

    def engine_silent_s(self) -> float:
        """See `EngineThread.silent_s`."""
        return self._engine.silent_s()

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
        self.readers.close()

    async def stats(self) -> GenerationStats:
        """The engine's counters now. Raises WorkerLost."""
        return await self._engine.stats()

    async def story(self, of: str) -> list[StoryEntry]:
        """What happened lately to a replica or to a request, see `Story.find`. Raises WorkerLost."""
        return await self._engine.story(of)

    def adapter_number(self, name: str | None) -> int:
        """Of an adapter by its name; None: the model itself. Raises InvalidRequest."""
        if name is None:
            return NO_ADAPTER
        if name not in self.adapters:
            there = ", ".join(self.adapters) or "none"
            raise InvalidRequest(f"there is no adapter {name!r}; there is {there}", param="adapter")
        return self.adapters.index(name)

    def now_s(self) -> float:
        """The data plane's clock."""
        return self._clock()

    def check_length(self, texts: Iterable[str], param: str) -> None:
        """Refuse texts that cannot fit before any work is done on them. Raises ContextLengthExceeded."""
        limit = self.max_context * self.tokenizer.max_token_chars
        num_chars = sum(map(len, texts))
        if num_chars > limit:
            raise ContextLengthExceeded(
                f"This model's maximum context length is {self.max_context} tokens, which are {limit} characters at "
                f"most, but the prompt has {num_chars}: shorten it",
                param=param,
            )

    async def encode(self, texts: Sequence[str], *, add_special: bool, param: str = "prompt") -> list[tuple[int, ...]]:
        """Token ids of each text, off the event loop but for short ones.

        Raises:
            ContextLengthExceeded: one of them cannot fit; nothing was computed.
            QueueFull: too many wait to be read.
        """
        for text in texts:
            self.check_length((text,), param)
        encode = self.tokenizer.encode
        if sum(map(len, texts)) <= SHORT_TEXT_CHARS:
            return [tuple(encode(text, add_special=add_special)) for text in texts]
        return [
            await self.readers.run(lambda text=text: tuple(encode(text, add_special=add_special))) for text in texts
        ]

    async def chat_prompt(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        """The prompt of a conversation, made off the event loop.

        Raises:
            InvalidRequest, ContextLengthExceeded: it cannot be made of these messages, or cannot fit.
            QueueFull: too many wait to be read.
        """
        if len(messages) > self.max_context:
            raise ContextLengthExceeded(
                f"This model's maximum context length is {self.max_context} tokens, and there are {len(messages)} "
                "messages: leave some out",
                param="messages",
            )
        self.check_length((str(message["content"]) for message in messages), "messages")
        return await self.readers.run(lambda: self.tokenizer.chat_prompt(messages, tools, variables))

    async def guides(self, constraint: Constraint | None, num_choices: int, param: str) -> tuple[Guide, ...]:
        """What keeps each choice of a call within a constraint, compiled off the event loop; None: nothing.

        Raises:
            InvalidRequest: it is malformed, cannot be satisfied or uses what is not supported.
            QueueFull: too many wait to be read.
        """
        if constraint is None:
            return ()
        try:
            return await self.readers.run(lambda: tuple(self.tokenizer.guide(constraint) for _ in range(num_choices)))
        except InvalidRequest as error:
            raise InvalidRequest(f"`{param}` cannot be used: {error}", param=param) from error

    async def generate(
        self, specs: Sequence[GenerationSpec], timeout_s: float | None = None, call_id: str = ""
    ) -> Generation:
        """Start a call with one or more prompts; all of them are admitted or none.

        Choice i of prompt p has index p * n + i when every prompt asks for n choices.

        Args:
            specs: the prompts.
            timeout_s: the most time that the call may take; None: as long as any call.
            call_id: which ids of its requests in the engine, its log and its story begin with; empty: any.

        Raises:
            InvalidRequest, ContextLengthExceeded, CapacityError: a prompt cannot be served.
            QueueFull: not now.
            DeadlineExceeded: the engine has not taken it up in time.
            WorkerLost: the engine can do no more work.
        """
        self._check_room(sum(spec.n for spec in specs))
        timeout_s = min((one for one in (timeout_s, self._request_timeout_s) if one is not None), default=None)
        arrival_s = self._clock()
        requests, choices, timers, guides = self._expand(specs, call_id, arrival_s)
        return Generation(
            self._engine,
            await self._submit(requests, timeout_s),
            choices,
            timers,
            guides,
            num_prompt_tokens=sum(len(spec.prompt_ids) for spec in specs),
            choices_per_prompt=[spec.n for spec in specs],
            arrival_s=arrival_s,
            timeout_s=timeout_s,
        )

    async def embed(self, prompts: Sequence[tuple[int, ...]], timeout_s: float | None = None) -> list[bytes]:
        """The hidden state of each text's last token behind the final norm, fp32 [D].

        Args:
            prompts: the tokens of each text; at least one, and one fewer than the context at most.
            timeout_s: the most time that it may take; None: as long as any call.

        Raises:
            QueueFull, DeadlineExceeded: not now, or not in time.
            RequestError: one could not be computed.
            InvalidRequest, CapacityError: one cannot be served.
            WorkerLost: the engine can do no more work.
        """
        call_id = uuid.uuid4().hex
        requests = [
            Request(request_id=RequestId(f"{call_id}-{index}"), prompt_ids=prompt, max_tokens=1, want_hidden=True)
            for index, prompt in enumerate(prompts)
        ]
        produced = await self.collect(requests, timeout_s)
        return [produced[request.request_id][0].hidden for request in requests]

    async def collect(
        self, requests: Sequence[Request], timeout_s: float | None = None
    ) -> dict[RequestId, list[TokenProduced]]:
        """Every token of some requests, once all have ended; all of them are admitted or none.

        Args:
            requests: whose ids nobody else has.
            timeout_s: the most time that it may take; None: as long as any call.

        Raises:
            QueueFull, DeadlineExceeded: not now, or not in time.
            RequestError: one could not be computed.
            InvalidRequest, CapacityError: one cannot be served.
            WorkerLost: the engine can do no more work.
        """
        self._check_room(len(requests))
        timeout_s = min((one for one in (timeout_s, self._request_timeout_s) if one is not None), default=None)
        arrival_s = self._clock()
        timers = {
            request.request_id: self.metrics.timer(len(request.prompt_ids), arrival_s, self._clock)
            for request in requests
        }
        produced: dict[RequestId, list[TokenProduced]] = {request.request_id: [] for request in requests}
        num_open = len(requests)
        stream = await self._submit(requests, timeout_s)
        try:
            async with asyncio.timeout(timeout_s):
                while num_open:
                    for output in await stream.take():
                        match output:
                            case TokenProduced():
                                produced[output.request_id].append(output)
                                self.metrics.last_token_s = self._clock()
                                timers[output.request_id].token()
                            case RequestFinished(reason="error"):
                                raise RequestError(output.message)
                            case RequestFinished():
                                num_open -= 1
                                timers[output.request_id].finish(output.reason)
        except TimeoutError as error:
            raise DeadlineExceeded("the answer was not finished in time") from error
        finally:
            self._engine.abandon(stream)
            for timer in timers.values():
                timer.finish("error")
        return produced

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

    def _check_room(self, num_requests: int) -> None:
        try:
            self._engine.check_room(num_requests)
        except QueueFull:
            self.metrics.count_refusal("queue_full")
            raise

    async def _submit(self, requests: Sequence[Request], timeout_s: float | None) -> OutputStream:
        if self._observer is None:
            return await self._submit_unobserved(requests, timeout_s)
        request_ids = [request.request_id for request in requests]
        self._observer.begin(request_ids)
        try:
            return await self._submit_unobserved(requests, timeout_s)
        except BaseException:
            self._observer.forget(request_ids)
            raise

    async def _submit_unobserved(self, requests: Sequence[Request], timeout_s: float | None) -> OutputStream:
        try:
            async with asyncio.timeout(timeout_s):
                return await self._engine.submit(requests)
        except TimeoutError as error:
            raise DeadlineExceeded("the engine is busy", self._engine.retry_after_s()) from error

    def _expand(
        self, specs: Sequence[GenerationSpec], call_id: str, arrival_s: float
    ) -> tuple[list[Request], dict[RequestId, Choice], dict[RequestId, Timer], dict[RequestId, Guide]]:
        own_id = uuid.uuid4().hex
        call_id = f"{call_id}-{own_id[:8]}" if call_id else own_id  # clients may say the same twice
        requests: list[Request] = []
        choices: dict[RequestId, Choice] = {}
        timers: dict[RequestId, Timer] = {}
        guides: dict[RequestId, Guide] = {}
        for spec in specs:
            max_tokens = self._allowed_tokens(spec)
            self._check_bias(spec)
            stop_token_ids, stops = self._stop_token_ids(spec), prepare_stops(spec.stop)
            for sibling in range(spec.n):
                index = len(requests)
                request = Request(
                    request_id=RequestId(f"{call_id}-{index}"),
                    prompt_ids=spec.prompt_ids,
                    max_tokens=max_tokens,
                    min_tokens=spec.min_tokens,
                    targets=spec.targets,
                    sampling=msgspec.structs.replace(spec.sampling, seed=self._seed(spec, sibling)),
                    stop_token_ids=stop_token_ids,
                    adapter=spec.adapter,
                    guide=spec.guides[sibling] if spec.guides else None,
                )
                if spec.guides:
                    guides[request.request_id] = spec.guides[sibling]
                requests.append(request)
                text = TextStream(
                    self.tokenizer.detokenizer(spec.prompt_ids, skip_special=not spec.shows_special), stops
                )
                choices[request.request_id] = Choice(index, text, request.stop_token_ids, spec.min_tokens)
                timers[request.request_id] = self.metrics.timer(len(spec.prompt_ids), arrival_s, self._clock)
        return requests, choices, timers, guides

    def _seed(self, spec: GenerationSpec, sibling: int) -> int:
        return (self._draw_seed() if spec.seed is None else spec.seed + sibling) % NUM_SEEDS

    def _stop_token_ids(self, spec: GenerationSpec) -> frozenset[int]:
        """One set for all choices. Raises InvalidRequest where one is no token."""
        if spec.targets:
            return frozenset()
        vocab_size = self.tokenizer.vocab_size
        if not all(0 <= token_id < vocab_size for token_id in spec.stop_token_ids):
            raise InvalidRequest(f"token ids must be between 0 and {vocab_size - 1}", param="stop_token_ids")
        return spec.stop_token_ids if spec.ignore_eos else spec.stop_token_ids | self.tokenizer.eos_token_ids

    def _check_bias(self, spec: GenerationSpec) -> None:
        """Raises InvalidRequest where a biased token is none."""
        vocab_size = self.tokenizer.vocab_size
        if not all(0 <= token_id < vocab_size for token_id, _ in spec.sampling.logit_bias):
            raise InvalidRequest(f"token ids must be between 0 and {vocab_size - 1}", param="logit_bias")

    def _allowed_tokens(self, spec: GenerationSpec) -> int:
        """The output tokens the request may have. Raises InvalidRequest, ContextLengthExceeded."""
        num_prompt_tokens, num_context_tokens = len(spec.prompt_ids), self.max_context
        if not num_prompt_tokens:
            raise InvalidRequest("the prompt is empty: it must have at least one token", param="prompt")
        num_wanted_tokens = len(spec.targets) or (1 if spec.max_tokens is None else spec.max_tokens)
        if num_prompt_tokens + num_wanted_tokens > num_context_tokens:
            raise ContextLengthExceeded(
                f"This model's maximum context length is {num_context_tokens} tokens, but the prompt has "
                f"{num_prompt_tokens} and {num_wanted_tokens} more were asked for: shorten the prompt or lower "
                "max_tokens",
                param="prompt",
            )
        if spec.min_tokens > num_wanted_tokens and spec.max_tokens is not None:
            raise InvalidRequest(
                f"min_tokens is {spec.min_tokens}, and {num_wanted_tokens} tokens at most are asked for",
                param="min_tokens",
            )
        takes_what_is_left = spec.max_tokens is None and not spec.targets
        return num_context_tokens - num_prompt_tokens if takes_what_is_left else num_wanted_tokens

    def _died(self, reason: str) -> None:
        if self.on_death is not None:
            self.on_death(reason)
