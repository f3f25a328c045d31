"""The arithmetic of the report, on requests with known times."""

from __future__ import annotations

import json

import numpy as np
import pytest

from shoal.bench.load import Load
from shoal.bench.load_generator import RequestOutcome
from shoal.bench.percentiles import distribution
from shoal.bench.serve_report import WIDTH, ServeReport, format_report, summarize

LOAD = Load(base_url="http://x", model="m", concurrency=2, num_prompts=3)


def report() -> ServeReport:
    requests = [
        RequestOutcome(started_s=10.0, arrivals_s=[10.5, 11.0, 12.0], prompt_tokens=100, output_tokens=3),
        RequestOutcome(started_s=20.0, arrivals_s=[20.1], prompt_tokens=50, output_tokens=1),
        RequestOutcome(started_s=30.0, arrivals_s=[30.1], prompt_tokens=50, output_tokens=1, error="HTTP 500: oops"),
    ]
    return summarize(LOAD, requests, duration_s=4.0)


def test_figures() -> None:
    made = report()
    assert (made.num_successful, made.num_failed, made.first_error) == (2, 1, "HTTP 500: oops")
    assert (made.total_input_tokens, made.total_output_tokens) == (150, 4)
    assert (made.requests_per_s, made.output_tokens_per_s, made.total_tokens_per_s) == (0.5, 1.0, 38.5)
    assert made.ttft.mean_s == pytest.approx(0.3)
    assert made.tpot.mean_s == pytest.approx(0.75)
    assert made.itl.median_s == pytest.approx(0.75)
    assert made.e2el.mean_s == pytest.approx(1.05)


def test_distribution_is_that_of_numpy() -> None:
    durations_s = [0.1 * number * number for number in range(57)]
    made = distribution(durations_s)
    assert made.mean_s == pytest.approx(sum(durations_s) / 57)
    assert made.median_s == pytest.approx(sorted(durations_s)[28])
    assert made.p99_s == pytest.approx(np.quantile(durations_s, 0.99))
    assert distribution([]).p99_s == 0.0


def test_block_and_json() -> None:
    lines = format_report(report()).splitlines()
    assert lines[0] == "============ Serving Benchmark Result ============"
    assert "Successful requests:                     2" in lines
    assert "Output token throughput (tok/s):         1.00" in lines
    assert "---------------Time to First Token----------------" in lines
    assert "-----Time per Output Token (excl. 1st token)------" in lines
    assert "Mean TPOT (ms):                          750.00" in lines
    assert lines[-2:] == ["=" * WIDTH, "first error: HTTP 500: oops"]
    assert json.loads(json.dumps(report().to_dict()))["tpot"]["mean_s"] == pytest.approx(0.75)
