"""Prometheus metrics of ONNX models: Triton's names under `shoal:`, times in seconds.

They are written here and not by `prometheus_client`, which would add `_total` to Triton's names of counters.
Source: Triton, "Metrics"; Prometheus, text exposition format 0.0.4.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from shoal.inference.request_counts import RequestCounts
from shoal.inference.served_model import ServedModel
from shoal.router.batch_engine import BatchStats

BATCH_BUCKETS_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
"""Powers of two around usual values of --max-batch."""


@dataclass(frozen=True, slots=True)
class _Family:
    name: str
    kind: Literal["counter", "gauge"]
    help_text: str
    read: Callable[[RequestCounts, BatchStats], float]


_FAMILIES = (
    _Family("request_success", "counter", "Requests that succeeded.", lambda c, s: c.num_succeeded),
    _Family("count", "counter", "Rows inferred: a batch of n counts n.", lambda c, s: s.num_rows),
    _Family("exec_count", "counter", "Batches run.", lambda c, s: s.num_batches),
    _Family("pending_request_count", "gauge", "Requests waiting to be run.", lambda c, s: s.queued_requests),
    _Family("pending_rows", "gauge", "Rows waiting to be run.", lambda c, s: s.queued_rows),
    _Family("in_flight_batches", "gauge", "Batches being run.", lambda c, s: s.in_flight_batches),
    _Family("replicas", "gauge", "Replicas with all their workers.", lambda c, s: s.num_replicas),
    _Family("replicas_recovering", "gauge", "Replicas whose workers are started again.", lambda c, s: s.num_recovering),
    _Family("worker_losses", "counter", "Times that a replica lost workers.", lambda c, s: s.num_losses),
    _Family("rows_per_second", "gauge", "Of all replicas, by their latest batches.", lambda c, s: s.rows_per_s),
    _Family("request_duration_seconds", "counter", "Arrival to end, of successes.", lambda c, s: c.success_s),
    _Family("queue_duration_seconds", "counter", "Waiting, of successes.", lambda c, s: s.queue_s),
    _Family("compute_infer_duration_seconds", "counter", "Running, of successes.", lambda c, s: s.compute_s),
)
"""Families without their common prefix."""

_PREFIX = "shoal:inference_"


def expose_metrics(models: Iterable[ServedModel]) -> bytes:
    """All present metrics of these models."""
    models = list(models)
    readings = [(_labels(model), model.counts, model.stats()) for model in models]
    lines: list[str] = []
    for family in _FAMILIES:
        lines += _head(family.name, family.kind, family.help_text)
        lines += [f"{_PREFIX}{family.name}{{{labels}}} {family.read(c, s)}" for labels, c, s in readings]
    lines += _head("predicted_rows_per_second", "gauge", "What the chosen split was expected to reach.")
    for model in models:
        if model.plan.predicted is not None:
            lines.append(f"{_PREFIX}predicted_rows_per_second{{{_labels(model)}}} {model.plan.predicted.rows_per_s}")
    lines += _head("request_failure", "counter", "Requests that failed, by Triton's reasons.")
    for labels, counts, _ in readings:
        lines += [
            f'{_PREFIX}request_failure{{{labels},reason="{reason}"}} {count}'
            for reason, count in counts.num_failed.items()
        ]
    lines += _head("batch_size", "histogram", "Rows of the batches run.")
    for labels, _, stats in readings:
        lines += _histogram(labels, stats.batch_sizes)
    lines += _head("recovery_seconds", "summary", "Loss of workers to new ones.")
    for labels, _, stats in readings:
        lines.append(f"{_PREFIX}recovery_seconds_sum{{{labels}}} {stats.recovery_s}")
        lines.append(f"{_PREFIX}recovery_seconds_count{{{labels}}} {stats.num_recoveries}")
    return ("\n".join(lines) + "\n").encode()


def _head(name: str, kind: str, help_text: str) -> tuple[str, str]:
    return f"# HELP {_PREFIX}{name} {help_text}", f"# TYPE {_PREFIX}{name} {kind}"


def _histogram(labels: str, counts: Mapping[int, int]) -> Iterator[str]:
    for bound in BATCH_BUCKETS_ROWS:
        below = sum(count for rows, count in counts.items() if rows <= bound)
        yield f'{_PREFIX}batch_size_bucket{{{labels},le="{bound}"}} {below}'
    total = sum(counts.values())
    yield f'{_PREFIX}batch_size_bucket{{{labels},le="+Inf"}} {total}'
    yield f"{_PREFIX}batch_size_sum{{{labels}}} {sum(rows * count for rows, count in counts.items())}"
    yield f"{_PREFIX}batch_size_count{{{labels}}} {total}"


def _labels(model: ServedModel) -> str:
    return f'model="{_escaped(model.file.name)}",version="{_escaped(model.file.version)}"'


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
