"""Perplexity of a text: the exponential of the mean negative log-likelihood of its tokens.

Windows do not overlap and each starts without context, so the first token of each is not scored. Source: the recipe
of llama.cpp's and Hugging Face's strided perplexity with stride = window.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from shoal.bench.generation import FinishedRequest, generate
from shoal.core.sequences.request import NO_ADAPTER, Request, RequestId
from shoal.errors import InvalidRequest
from shoal.protocol.language_messages import Sampling
from shoal.router.engine import Engine


@dataclass(frozen=True, slots=True, kw_only=True)
class Perplexity:
    """The perplexity, and the number of windows and tokens over which it was computed."""

    perplexity: float
    num_windows: int
    num_targets: int
    """Number of scored tokens."""


def perplexity(
    engine: Engine,
    token_ids: Sequence[int],
    *,
    window_tokens: int,
    max_windows: int | None = None,
    concurrency: int = 2,
    adapter: int = NO_ADAPTER,
    on_window: Callable[[int, int], None] | None = None,
) -> Perplexity:
    """Score `token_ids` in full windows, with or without an adapter.

    Raises InvalidRequest if the text is shorter than one window.
    """
    num_windows = min(len(token_ids) // window_tokens, max_windows or len(token_ids))
    if num_windows == 0:
        raise InvalidRequest(f"the text has {len(token_ids)} tokens, fewer than one window of {window_tokens}")
    done = 0

    def count(_: FinishedRequest) -> None:
        nonlocal done
        done += 1
        if on_window:
            on_window(done, num_windows)

    requests = [
        _window_request(index, token_ids[index * window_tokens : (index + 1) * window_tokens], adapter)
        for index in range(num_windows)
    ]
    results = generate(engine, requests, concurrency=concurrency, on_finished=count)
    logprobs = [logprob for result in results for logprob in result.logprobs]
    mean = math.fsum(logprobs) / len(logprobs)
    return Perplexity(perplexity=math.exp(-mean), num_windows=num_windows, num_targets=len(logprobs))


def _window_request(index: int, window: Sequence[int], adapter: int) -> Request:
    """A request that forces all tokens but the first and asks for their log-probabilities."""
    return Request(
        request_id=RequestId(f"window-{index}"),
        prompt_ids=(window[0],),
        targets=tuple(window[1:]),
        max_tokens=len(window) - 1,
        sampling=Sampling(temperature=0.0, num_logprobs=0),
        adapter=adapter,
    )
