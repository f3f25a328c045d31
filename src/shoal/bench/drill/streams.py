"""A drill's requests to a language model: streams of tokens."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from statistics import median

import msgspec

from shoal.bench.drill.clients import CLIENTS_A_REPLICA, DrillClients
from shoal.bench.drill.pauses import ClientPace
from shoal.bench.event_stream import Endpoint, post_for_events
from shoal.bench.load import WORDS
from shoal.bench.load_generator import RequestOutcome

_PROMPT_WORDS, _OUTPUT_TOKENS = 24, 128
_TIMEOUT_S = 300.0


class DrillStreams(DrillClients):
    """Clients that stream completions, one after the other."""

    least_running = CLIENTS_A_REPLICA

    def __init__(self, endpoint: Endpoint, model: str, *, count: int, api_key: str | None) -> None:
        super().__init__(count)
        self._endpoint, self._model, self._api_key = endpoint, model, api_key
        self._rng = random.Random(0)
        self._outcomes: list[RequestOutcome] = []

    def errors(self) -> Sequence[str | None]:
        """See `DrillClients.errors`."""
        return [one.error for one in self._outcomes]

    def arrivals(self) -> list[Sequence[float]]:
        """See `DrillClients.arrivals`."""
        return [one.arrivals_s for one in self._outcomes]

    def pace(self, since_s: float) -> ClientPace | None:
        """See `DrillClients.pace`."""
        own = [one for one in self._outcomes if one.started_s >= since_s and len(one.arrivals_s) > 1]
        gap_s = self.median_gap_s([one.arrivals_s for one in own])
        if gap_s is None:
            return None
        ttft_s = median(one.arrivals_s[0] - one.started_s for one in own)
        return ClientPace(gap_s=gap_s, again_s=ttft_s / self._prompt_tokens())

    def again(self, num_running: int) -> float:
        """Prompts and outputs so far of as many streams, as they are now on average."""
        running = [len(one.arrivals_s) for one in self._outcomes[-self.count :]]
        return num_running * (self._prompt_tokens() + sum(running) / max(1, len(running)))

    async def ask(self, index: int) -> bool:
        """See `DrillClients.ask`."""
        outcome = RequestOutcome(started_s=time.perf_counter())
        self._outcomes.append(outcome)
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                status, answer = await post_for_events(
                    self._endpoint, self._body(), api_key=self._api_key, on_event=outcome.on_event
                )
            if status != 200:
                outcome.error = f"HTTP {status}: {answer[:300].decode(errors='replace')}"
        except (OSError, TimeoutError, msgspec.MsgspecError) as error:
            outcome.error = f"{type(error).__name__}: {error}"
        return outcome.error is None

    def _prompt_tokens(self) -> int:
        """Of a prompt, as answers that have ended tell."""
        return max((one.prompt_tokens for one in self._outcomes), default=0) or _PROMPT_WORDS

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
