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

_PROMPT_WORDS, _OUTPUT_TOKENS = (8, 48), 96
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
        """See `DrillClients.pace`. Prompts of two lengths give the time of a prompt token."""
        gap_s = self.median_gap_s([one.arrivals_s for one in self._outcomes if one.started_s >= since_s])
        ttft_s = [
            [one.arrivals_s[0] - one.started_s for one in of_length if one.prompt_tokens]
            for of_length in self._by_words()
        ]
        if gap_s is None or min(map(len, ttft_s)) < self.count:
            return None
        short, long = (max(one.prompt_tokens for one in of_length) for of_length in self._by_words())
        return ClientPace(gap_s=gap_s, again_s=max(0.0, median(ttft_s[1]) - median(ttft_s[0])) / max(1, long - short))

    def again(self, num_running: int) -> float:
        """See `DrillClients.again`. Tokens of `num_running` average streams: their prompts and outputs so far."""
        prompt_tokens = [max(one.prompt_tokens for one in of_length) for of_length in self._by_words()]
        running = [len(one.arrivals_s) for one in self._outcomes[-self.count :]]
        return num_running * (sum(prompt_tokens) / len(prompt_tokens) + sum(running) / max(1, len(running)))

    def _by_words(self) -> list[list[RequestOutcome]]:
        """Requests grouped by the lengths of their prompts, which alternate."""
        return [self._outcomes[first :: len(_PROMPT_WORDS)] for first in range(len(_PROMPT_WORDS))]

    async def ask(self, index: int) -> bool:
        """See `DrillClients.ask`."""
        outcome = RequestOutcome(started_s=time.perf_counter())
        body = self._body(_PROMPT_WORDS[len(self._outcomes) % len(_PROMPT_WORDS)])
        self._outcomes.append(outcome)
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                status, answer = await post_for_events(
                    self._endpoint, body, api_key=self._api_key, on_event=outcome.on_event
                )
            if status != 200:
                outcome.error = f"HTTP {status}: {answer[:300].decode(errors='replace')}"
        except (OSError, TimeoutError, msgspec.MsgspecError) as error:
            outcome.error = f"{type(error).__name__}: {error}"
        return outcome.error is None

    def _body(self, num_words: int) -> bytes:
        """The body of a request. Prompts differ, so that none is cached; outputs end by length, so that all are equally
        long.
        """
        fields = {
            "model": self._model,
            "prompt": " ".join(self._rng.choices(WORDS, k=num_words)),
            "max_tokens": _OUTPUT_TOKENS,
            "temperature": 0.0,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        return msgspec.json.encode(fields)
