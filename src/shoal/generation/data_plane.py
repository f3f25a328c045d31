"""The implementation behind all API dialects: prompts as token ids in, text deltas and usage out."""

from __future__ import annotations

import asyncio
import secrets
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any

from shoal.core.generation.admission import AdmissionConfig
from shoal.core.sequences.request import NO_ADAPTER, Request, RequestFinished, RequestId, TokenProduced
from shoal.core.story import StoryEntry
from shoal.errors import DeadlineExceeded, InvalidRequest, QueueFull, RequestError
from shoal.generation.call_requests import CallRequests
from shoal.generation.engine_thread import EngineThread
from shoal.generation.generation import Generation, GenerationSpec
from shoal.generation.output.output_stream import OutputStream
from shoal.generation.prompt_reader import PromptReader
from shoal.generation.readers import MAX_WAITING, Readers
from shoal.generation.seams import (
    GenerationEngine,
    GenerationStats,
    Meter,
    PicturePrompts,
    PromptTokenizer,
    RequestObserver,
    Timer,
)
from shoal.protocol.language_messages import Sampling


class DataPlane:
    """Serves calls of all dialects to one language model. Owns the engine's thread."""

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
            engine: computes the requests.
            tokenizer: the model's tokenizer.
            metrics: counts calls and tokens.
            adapters: names of the adapters that calls may select, ordered by index.
            admission: how many requests may wait; None: the default.
            request_timeout_s: the most time that any call may take; None: no limit.
            draw_seed: draws a seed for requests without one.
            clock: gives monotonic seconds.
            observer: gets the requests of every call; None: there is none.
        """
        self.tokenizer = tokenizer
        self.metrics = metrics
        self.adapters = tuple(adapters)
        """Names of the adapters, ordered by index."""
        self.on_death: Callable[[str], None] | None = None
        """Called once in the event loop, with the reason, when the engine can do no more work."""
        admission = admission or AdmissionConfig()
        self._engine = EngineThread(engine, admission, clock)
        self._request_timeout_s = request_timeout_s
        self._requests = CallRequests(tokenizer, self._engine.max_context, draw_seed)
        self._clock = clock
        self._observer = observer
        self.pictures: PicturePrompts[Any] | None = None
        """Prompts with pictures; None: the model takes only text. Starts and closes with the data plane."""
        self.readers = Readers(max(MAX_WAITING, admission.max_queue))
        """Threads for work whose time depends on the size of a call."""
        self.prompts = PromptReader(tokenizer, self._engine.max_context, self.readers)
        """Makes tokens from the texts and conversations of calls."""

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
        """When the last token was produced; None before the first."""
        return self.metrics.last_token_s

    def start(self) -> None:
        """Start the engine's thread for the running event loop."""
        self._engine.start(on_death=self._died)
        if self.pictures is not None:
            self.pictures.start()

    async def close(self) -> None:
        """Stop the engine. Requests that are still open end with an error."""
        if self.pictures is not None:
            await self.pictures.close()
        await self._engine.close()
        self.readers.close()

    async def stats(self) -> GenerationStats:
        """The engine's counters now. Raises WorkerLost."""
        return await self._engine.stats()

    async def story(self, of: str) -> list[StoryEntry]:
        """What happened lately to a replica or to a request, see `Story.find`. Raises WorkerLost."""
        return await self._engine.story(of)

    def adapter_number(self, name: str | None) -> int:
        """The index of an adapter; without a name, NO_ADAPTER. Raises InvalidRequest if the name is unknown."""
        if name is None:
            return NO_ADAPTER
        if name not in self.adapters:
            there = ", ".join(self.adapters) or "none"
            raise InvalidRequest(f"there is no adapter {name!r}; there is {there}", param="adapter")
        return self.adapters.index(name)

    def now_s(self) -> float:
        """The data plane's clock."""
        return self._clock()

    async def generate(
        self, specs: Sequence[GenerationSpec], timeout_s: float | None = None, call_id: str = ""
    ) -> Generation:
        """Start a call with one or more prompts, of which all or none are admitted.

        Choice i of prompt p has the index p * n + i if every prompt asks for n choices.

        Args:
            specs: the prompts.
            timeout_s: the most time that the call may take; None: `request_timeout_s`.
            call_id: the beginning of its requests' ids in the engine, the log and the story; empty: a random one.

        Raises:
            InvalidRequest, ContextLengthExceeded, CapacityError: a prompt cannot be served.
            QueueFull: too many requests wait already.
            DeadlineExceeded: the engine has not accepted the call in time.
            WorkerLost: the engine can do no more work.
        """
        self._check_room(sum(spec.n for spec in specs))
        timeout_s = self._at_most(timeout_s)
        arrival_s = self._clock()
        made = self._requests.make(specs, call_id)
        requests = [one.request for one in made]
        return Generation(
            self._engine,
            await self._submit(requests, timeout_s),
            {one.request.request_id: one.choice for one in made},
            self._timers(requests, arrival_s),
            {one.request.request_id: one.guide for one in made if one.guide is not None},
            num_prompt_tokens=sum(len(spec.prompt_ids) for spec in specs),
            choices_per_prompt=[spec.n for spec in specs],
            arrival_s=arrival_s,
            timeout_s=timeout_s,
        )

    async def embed(self, prompts: Sequence[tuple[int, ...]], timeout_s: float | None = None) -> list[bytes]:
        """The hidden state of each text's last token after the final norm, fp32 [D].

        Args:
            prompts: the tokens of each text, at least one and fewer than the context.
            timeout_s: the most time that the call may take; None: `request_timeout_s`.

        Raises:
            QueueFull, DeadlineExceeded: too many requests wait, or the call was not finished in time.
            RequestError: a text could not be computed. InvalidRequest, CapacityError: a text cannot be served.
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
        """Collect all tokens of some requests until all have ended; all or none of them are admitted.

        Args:
            requests: requests with unique ids.
            timeout_s: the most time that the call may take; None: `request_timeout_s`.

        Raises:
            QueueFull, DeadlineExceeded: too many requests wait, or the call was not finished in time.
            RequestError: a request could not be computed. InvalidRequest, CapacityError: a request cannot be served.
            WorkerLost: the engine can do no more work.
        """
        self._check_room(len(requests))
        timeout_s = self._at_most(timeout_s)
        arrival_s = self._clock()
        timers = self._timers(requests, arrival_s)
        produced: dict[RequestId, list[TokenProduced]] = {request.request_id: [] for request in requests}
        num_open = len(requests)
        stream = await self._submit(requests, timeout_s)
        try:
            async with asyncio.timeout(timeout_s):
                while num_open:
                    for output in await stream.take():
                        match output:
                            case TokenProduced(request_id=request_id):
                                produced[request_id].append(output)
                                self.metrics.last_token_s = self._clock()
                                if output.hidden:  # it takes the place of a token, but is none
                                    timers[request_id].finish("stop")
                                else:
                                    timers[request_id].token()
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
        """Generate one token, which is not counted. Returns whether it was produced. Raises WorkerLost."""
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

    def _at_most(self, timeout_s: float | None) -> float | None:
        """The time limit of a call that asks for `timeout_s`; None: no limit."""
        return min((one for one in (timeout_s, self._request_timeout_s) if one is not None), default=None)

    def _timers(self, requests: Sequence[Request], arrival_s: float) -> dict[RequestId, Timer]:
        timer, clock = self.metrics.timer, self._clock
        return {request.request_id: timer(len(request.prompt_ids), arrival_s, clock) for request in requests}

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

    def _died(self, reason: str) -> None:
        if self.on_death is not None:
            self.on_death(reason)
