"""The report of a serving benchmark, as JSON and as a block like vLLM's."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from shoal.bench.load import Load
from shoal.bench.percentiles import Distribution, distribution

WIDTH = 50
"""Columns of the block, as in `vllm bench serve`, so that both can be compared side by side."""


class MeasuredRequest(Protocol):
    """The properties of a request that the report uses."""

    started_s: float
    arrivals_s: list[float]
    prompt_tokens: int
    output_tokens: int
    error: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeReport:
    """All figures of a run. Latencies and token counts are those of successful requests."""

    model: str
    concurrency: int | None
    """Clients of a closed loop; None: an open loop."""
    request_rate: float | None
    """Requests/s of an open loop; None: a closed loop."""
    num_successful: int
    num_failed: int
    first_error: str | None
    duration_s: float
    total_input_tokens: int
    total_output_tokens: int
    requests_per_s: float
    output_tokens_per_s: float
    total_tokens_per_s: float
    ttft: Distribution
    """Time to first token."""
    tpot: Distribution
    """Time per output token after the first, one value per request."""
    itl: Distribution
    """Inter-token latency: time between two chunks, one value per gap."""
    e2el: Distribution
    """End-to-end latency: time from sending to the last token."""

    def to_dict(self) -> dict[str, Any]:
        """The report as plain data, for JSON."""
        return asdict(self)


def summarize(load: Load, requests: Sequence[MeasuredRequest], *, duration_s: float) -> ServeReport:
    """The report of a run that took `duration_s` seconds."""
    good = [request for request in requests if request.error is None]
    errors = [request.error for request in requests if request.error is not None]
    prompt_tokens = sum(request.prompt_tokens for request in good)
    output_tokens = sum(request.output_tokens for request in good)
    return ServeReport(
        model=load.model,
        concurrency=load.concurrency,
        request_rate=load.request_rate,
        num_successful=len(good),
        num_failed=len(errors),
        first_error=errors[0] if errors else None,
        duration_s=duration_s,
        total_input_tokens=prompt_tokens,
        total_output_tokens=output_tokens,
        requests_per_s=len(good) / duration_s,
        output_tokens_per_s=output_tokens / duration_s,
        total_tokens_per_s=(prompt_tokens + output_tokens) / duration_s,
        ttft=distribution([request.arrivals_s[0] - request.started_s for request in good]),
        tpot=distribution(list(_tpots_s(good))),
        itl=distribution([b - a for request in good for a, b in itertools.pairwise(request.arrivals_s)]),
        e2el=distribution([request.arrivals_s[-1] - request.started_s for request in good]),
    )


def _tpots_s(requests: Iterable[MeasuredRequest]) -> Iterable[float]:
    for request in requests:
        if request.output_tokens > 1:
            yield (request.arrivals_s[-1] - request.arrivals_s[0]) / (request.output_tokens - 1)


def format_report(report: ServeReport) -> str:
    """The block that `vllm bench serve` prints."""
    lines = [
        f"{' Serving Benchmark Result ':=^{WIDTH}}",
        _line("Successful requests:", report.num_successful),
        _line("Failed requests:", report.num_failed),
        _loop_line(report),
        _line("Benchmark duration (s):", report.duration_s),
        _line("Total input tokens:", report.total_input_tokens),
        _line("Total generated tokens:", report.total_output_tokens),
        _line("Request throughput (req/s):", report.requests_per_s),
        _line("Output token throughput (tok/s):", report.output_tokens_per_s),
        _line("Total Token throughput (tok/s):", report.total_tokens_per_s),
        *_section("Time to First Token", "TTFT", report.ttft),
        *_section("Time per Output Token (excl. 1st token)", "TPOT", report.tpot),
        *_section("Inter-token Latency", "ITL", report.itl),
        *_section("End-to-end Latency", "E2EL", report.e2el),
        "=" * WIDTH,
    ]
    if report.first_error is not None:
        lines.append(f"first error: {report.first_error}")
    return "\n".join(lines)


def _loop_line(report: ServeReport) -> str:
    if report.request_rate is not None:
        return _line("Request rate configured (RPS):", float(report.request_rate))
    return _line("Maximum request concurrency:", report.concurrency or 0)


def _section(title: str, short: str, values: Distribution) -> list[str]:
    return [
        f"{title:-^{WIDTH}}",
        _line(f"Mean {short} (ms):", values.mean_s * 1e3),
        _line(f"Median {short} (ms):", values.median_s * 1e3),
        _line(f"P99 {short} (ms):", values.p99_s * 1e3),
    ]


def _line(label: str, value: float) -> str:
    text = f"{value:.2f}" if isinstance(value, float) else str(value)
    return f"{label:<40} {text:<10}".rstrip()
