"""Offline throughput: a closed loop of requests of equal length on an engine, without HTTP."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

from shoal.bench.generation import FinishedRequest, generate
from shoal.core.sequences.request import NO_ADAPTER, Request, RequestId
from shoal.protocol.language_messages import Sampling
from shoal.router.engine import Engine

_FIRST_ORDINARY_TOKEN = 100
"""Lower ids are special tokens in most vocabularies."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Throughput:
    """The throughput and latencies of a closed loop of `concurrency` streams. Latencies are medians unless named
    p99."""

    concurrency: int
    num_prompts: int
    prompt_tokens: int
    output_tokens: int
    duration_s: float
    output_tokens_per_s: float
    total_tokens_per_s: float
    ttft_s: float
    ttft_p99_s: float
    tpot_s: float
    tpot_p99_s: float

    def to_dict(self) -> dict[str, float]:
        """The figures as plain data, for JSON."""
        return asdict(self)


def measure_throughput(
    engine: Engine,
    *,
    vocab_size: int,
    concurrency: int,
    num_prompts: int,
    prompt_tokens: int,
    output_tokens: int,
    seed: int = 0,
    num_adapters: int = 0,
    on_finished: Callable[[FinishedRequest], None] | None = None,
) -> Throughput:
    """Measure with random prompts of exact length, greedy sampling and no end token, after a short warm-up round. With
    adapters, requests use each of them in turn."""
    rng = random.Random(seed)

    def request(kind: str, index: int, num_output: int) -> Request:
        prompt = tuple(rng.randrange(_FIRST_ORDINARY_TOKEN, vocab_size) for _ in range(prompt_tokens))
        sampling = Sampling(temperature=0.0)
        return Request(
            request_id=RequestId(f"{kind}-{index}"),
            prompt_ids=prompt,
            max_tokens=num_output,
            sampling=sampling,
            adapter=index % num_adapters if num_adapters else NO_ADAPTER,
        )

    generate(engine, [request("warm", i, 4) for i in range(concurrency)], concurrency=concurrency)
    requests = [request("prompt", i, output_tokens) for i in range(num_prompts)]
    started_s = time.perf_counter()
    results = generate(engine, requests, concurrency=concurrency, on_finished=on_finished)
    duration_s = time.perf_counter() - started_s
    num_output = sum(len(result.token_ids) for result in results)
    ttfts_s = sorted(result.ttft_s for result in results)
    tpots_s = sorted(result.tpot_s for result in results)
    return Throughput(
        concurrency=concurrency,
        num_prompts=num_prompts,
        prompt_tokens=prompt_tokens,
        output_tokens=output_tokens,
        duration_s=duration_s,
        output_tokens_per_s=num_output / duration_s,
        total_tokens_per_s=(num_output + prompt_tokens * num_prompts) / duration_s,
        ttft_s=statistics.median(ttfts_s),
        ttft_p99_s=_percentile(ttfts_s, 0.99),
        tpot_s=statistics.median(tpots_s),
        tpot_p99_s=_percentile(tpots_s, 0.99),
    )


def _percentile(ordered: list[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
