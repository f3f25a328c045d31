"""Run requests on an engine and measure the latencies that a client would see."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from shoal.core.sequences.request import Request, RequestFinished, TokenProduced
from shoal.errors import RequestError
from shoal.router.engine import Engine

_TURN_S = 60.0


@dataclass(slots=True, kw_only=True)
class FinishedRequest:
    """One finished request. Times in seconds on the engine's clock."""

    request: Request
    added_s: float
    token_ids: list[int] = field(default_factory=list[int])
    token_times_s: list[float] = field(default_factory=list[float])
    logprobs: list[float] = field(default_factory=list[float])
    logits: list[bytes] = field(default_factory=list[bytes])
    attention: tuple[bytes, ...] = ()
    finish_reason: str = ""

    @property
    def ttft_s(self) -> float:
        """Time to first token."""
        return self.token_times_s[0] - self.added_s

    @property
    def tpot_s(self) -> float:
        """Mean time per output token after the first."""
        return (self.token_times_s[-1] - self.token_times_s[0]) / max(1, len(self.token_ids) - 1)


def generate(
    engine: Engine,
    requests: Iterable[Request],
    *,
    concurrency: int,
    on_finished: Callable[[FinishedRequest], None] | None = None,
    on_token: Callable[[TokenProduced], None] | None = None,
    on_end: Callable[[RequestFinished], None] | None = None,
) -> list[FinishedRequest]:
    """Run requests with at most `concurrency` unfinished at any time. Returns them in the given order.

    Raises:
        RequestError: a request failed.
        WorkerLost: no replica is left.
    """
    waiting = deque(requests)
    results: dict[str, FinishedRequest] = {}
    num_open = 0
    while waiting or num_open:
        while waiting and num_open < concurrency:
            request = waiting.popleft()
            engine.add(request)
            results[request.request_id] = FinishedRequest(request=request, added_s=time.perf_counter())
            num_open += 1
        outputs = engine.turn(_TURN_S)
        now_s = time.perf_counter()
        for output in outputs:
            generation = results[output.request_id]
            match output:
                case TokenProduced():
                    _take(generation, output, now_s)
                    if on_token:
                        on_token(output)
                case RequestFinished():
                    num_open -= 1
                    _finish(generation, output)
                    if on_end:
                        on_end(output)
                    if on_finished:
                        on_finished(generation)
    return list(results.values())


def _take(generation: FinishedRequest, output: TokenProduced, now_s: float) -> None:
    generation.token_ids.append(output.token_id)
    generation.token_times_s.append(now_s)
    if output.logprobs:
        generation.logprobs.append(output.logprobs.logprob)
    if output.logits:
        generation.logits.append(output.logits)
    generation.attention = output.attention or generation.attention


def _finish(generation: FinishedRequest, output: RequestFinished) -> None:
    if output.reason == "error":
        raise RequestError(f"request {output.request_id}: {output.message}")
    generation.finish_reason = output.reason
