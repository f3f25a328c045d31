"""Requests of the drill's own: streams that are always under way, so that every pause is seen and every loss felt."""

from __future__ import annotations

import asyncio
import random
import time
from statistics import median

import msgspec

from shoal.bench.drill.pauses import StreamPace
from shoal.bench.event_stream import Endpoint, post_for_events
from shoal.bench.load import WORDS
from shoal.bench.load_generator import RequestOutcome

_PROMPT_WORDS, _OUTPUT_TOKENS = 24, 128
_TIMEOUT_S = 300.0


class DrillStreams:
    """Some clients in a closed loop. Use as an async context."""

    def __init__(self, endpoint: Endpoint, model: str, *, count: int, api_key: str | None) -> None:
        self._endpoint, self._model, self._count, self._api_key = endpoint, model, count, api_key
        self._rng = random.Random(0)
        self._tasks: list[asyncio.Task[None]] = []
        self._is_ending = False
        self.outcomes: list[RequestOutcome] = []
        """of every request, those under way included"""

    async def __aenter__(self) -> DrillStreams:
        self._tasks = [asyncio.create_task(self._run()) for _ in range(self._count)]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks)

    async def finish(self) -> None:
        """Let the requests under way end, and begin no others."""
        self._is_ending = True
        await asyncio.wait(self._tasks)

    @property
    def num_lost(self) -> int:
        """The number of requests that have failed."""
        return sum(one.error is not None for one in self.outcomes)

    @property
    def first_error(self) -> str | None:
        """Why the first of them did."""
        return next((one.error for one in self.outcomes if one.error is not None), None)

    def arrivals(self) -> list[list[float]]:
        """Times of the tokens of every request."""
        return [one.arrivals_s for one in self.outcomes]

    def pace(self, since_s: float) -> StreamPace | None:
        """The pace of the streams since then; None while too few tokens have come."""
        own = [one for one in self.outcomes if one.started_s >= since_s and len(one.arrivals_s) > 1]
        gaps = [
            later - earlier for one in own for earlier, later in zip(one.arrivals_s, one.arrivals_s[1:], strict=False)
        ]
        if len(gaps) < 8 * self._count:
            return None
        ttft_s = median(one.arrivals_s[0] - one.started_s for one in own)
        return StreamPace(
            token_gap_s=median(gaps),
            prompt_token_s=ttft_s / self._prompt_tokens(),
        )

    def known_tokens(self) -> float:
        """Prompt and outputs so far of a stream that is under way now, on average."""
        running = [len(one.arrivals_s) for one in self.outcomes[-self._count :]]
        return self._prompt_tokens() + sum(running) / max(1, len(running))

    def _prompt_tokens(self) -> int:
        """Of a prompt, as answers that have ended tell."""
        return max((one.prompt_tokens for one in self.outcomes), default=0) or _PROMPT_WORDS

    async def _run(self) -> None:
        while not self._is_ending:
            outcome = RequestOutcome(started_s=time.perf_counter())
            self.outcomes.append(outcome)
            try:
                async with asyncio.timeout(_TIMEOUT_S):
                    status, answer = await post_for_events(
                        self._endpoint, self._body(), api_key=self._api_key, on_event=outcome.on_event
                    )
                if status != 200:
                    outcome.error = f"HTTP {status}: {answer[:300].decode(errors='replace')}"
            except (OSError, TimeoutError, msgspec.MsgspecError) as error:
                outcome.error = f"{type(error).__name__}: {error}"
            if outcome.error is not None:
                return

    def _body(self) -> bytes:
        """Prompts differ, so that none is found in a cache; ends are by length, so that each is as long."""
        fields = {
            "model": self._model,
            "prompt": " ".join(self._rng.choices(WORDS, k=_PROMPT_WORDS)),
            "max_tokens": _OUTPUT_TOKENS,
            "temperature": 0.0,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        return msgspec.json.encode(fields)
