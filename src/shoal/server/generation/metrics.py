"""Prometheus metrics: vLLM's names under `shoal:`, in a registry of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from shoal.core.plan.language import PredictedSpeed
from shoal.generation.seams import GenerationStats

# Source of the buckets: vLLM's metrics of the same names, so that existing dashboards and alerts stay valid.
TTFT_BUCKETS_S = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160)
TOKEN_BUCKETS_S = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80)
REQUEST_BUCKETS_S = (0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680)
RECOVERY_BUCKETS_S = (0.1, 0.25, 0.5, 0.75, 1, 1.5, 2, 3, 5, 7.5, 10, 20, 40, 80, 160, 320)
"""A judgment: a small model's workers are back within a second or two, a large one loads for minutes."""
LENGTH_BUCKETS_TOKENS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000, 100_000)


class ExpertRows(Protocol):
    """The number of rows that went to each expert of a stage."""

    @property
    def replica(self) -> int:
        """The replica's number."""
        ...

    @property
    def stage(self) -> int:
        """The stage's number within its replica."""
        ...

    @property
    def num_rows(self) -> int:
        """Rows that have chosen an expert of a layer, counted once for each expert that they chose."""
        ...

    @property
    def shard_shares(self) -> Sequence[float]:
        """Fraction of these rows that each shard computes."""
        ...

    @property
    def largest_share(self) -> float:
        """Largest fraction of a layer's rows that goes to one expert."""
        ...


class _ExpertCollector:
    """The workers' reports about experts, read for every exposition."""

    def __init__(self, model_name: str, heats: Callable[[], Sequence[ExpertRows]]) -> None:
        self._model_name, self._heats = model_name, heats

    def collect(self) -> Iterator[Metric]:
        labels = ["model_name", "replica", "stage"]
        rows = CounterMetricFamily("shoal:expert_rows", "Rows that a layer has sent to experts.", labels=labels)
        largest = GaugeMetricFamily(
            "shoal:expert_largest_share", "Largest part of a layer's rows that one expert has.", labels=labels
        )
        shares = GaugeMetricFamily(
            "shoal:expert_shard_share", "Part of experts' rows that a shard computes.", labels=[*labels, "shard"]
        )
        for heat in self._heats():
            place = [self._model_name, str(heat.replica), str(heat.stage)]
            rows.add_metric(place, heat.num_rows)
            largest.add_metric(place, heat.largest_share)
            for shard, share in enumerate(heat.shard_shares):
                shares.add_metric([*place, str(shard)], share)
        yield from (family for family in (rows, largest, shares) if family.samples)


class _EngineCollector:
    """The engine's own counters, as last read."""

    def __init__(self, model_name: str) -> None:
        self.stats: GenerationStats | None = None
        self._model_name = model_name

    def collect(self) -> Iterator[Metric]:
        stats = self.stats
        if stats is None:
            return
        yield self._gauge("num_requests_running", "Requests in execution.", stats.num_running)
        yield self._gauge("num_requests_waiting", "Requests waiting to be scheduled.", stats.num_waiting)
        yield self._gauge("kv_cache_usage_perc", "KV cache in use; 1 is all of it.", stats.kv_usage)
        yield self._counter("prefix_cache_queries", "Prompt tokens looked up in the cache.", stats.prefix_query_tokens)
        yield self._counter("prefix_cache_hits", "Prompt tokens found in the prefix cache.", stats.prefix_hit_tokens)
        yield self._counter("num_preemptions", "Requests put back for want of KV blocks.", stats.num_preemptions)
        yield self._gauge("replicas", "Replicas with all their workers.", stats.num_replicas)
        yield self._gauge("replicas_recovering", "Replicas whose workers are started again.", stats.num_recovering)
        yield self._counter("worker_losses", "Times that a replica lost workers.", stats.num_losses)
        yield self._counter("request_replays", "Times that a request went on on other workers.", stats.num_replays)
        yield self._counter("replayed_tokens", "Tokens computed again for that.", stats.replayed_tokens)
        yield self._slowdowns(stats.slowdowns)

    def _slowdowns(self, slowdowns: Sequence[Sequence[float]]) -> Metric:
        help_text = "Time of a stage's latest steps over the time expected of them; 1 is as expected."
        family = GaugeMetricFamily("shoal:worker_slowdown", help_text, labels=["model_name", "replica", "stage"])
        for replica, stages in enumerate(slowdowns):
            for stage, factor in enumerate(stages):
                family.add_metric([self._model_name, str(replica), str(stage)], factor)
        return family

    def _gauge(self, name: str, help_text: str, value: float) -> Metric:
        family = GaugeMetricFamily(f"shoal:{name}", help_text, labels=["model_name"])
        family.add_metric([self._model_name], value)
        return family

    def _counter(self, name: str, help_text: str, value: float) -> Metric:
        family = CounterMetricFamily(f"shoal:{name}", help_text, labels=["model_name"])
        family.add_metric([self._model_name], value)
        return family


_TOKEN_COUNTERS = ("prompt_tokens", "generation_tokens")


class ServerMetrics:
    """All metrics of one app. Updated in the event loop only."""

    def __init__(self, model_name: str, predicted: PredictedSpeed | None = None) -> None:
        """`predicted`: the planner's prediction, shown beside the measurements; None: the split was given by the
        user."""
        self.model_name = model_name
        self.last_token_s: float | None = None
        """Time of the latest token, on the data plane's clock; None before the first one."""
        self._registry = CollectorRegistry()
        self._engine = _EngineCollector(model_name)
        self._registry.register(self._engine)
        self.prompt_tokens = self._counter("prompt_tokens", "Prompt tokens of finished prefills.")
        self.generation_tokens = self._counter("generation_tokens", "Tokens generated.")
        self._success = Counter(
            "shoal:request_success", "Requests by end.", ["model_name", "finished_reason"], registry=self._registry
        )
        self._refusals = Counter(
            "shoal:request_refusals", "Calls refused, by reason.", ["model_name", "reason"], registry=self._registry
        )
        self.ttft_s = self._histogram("time_to_first_token_seconds", "Arrival to first token.", TTFT_BUCKETS_S)
        self.itl_s = self._histogram("inter_token_latency_seconds", "Between two tokens.", TOKEN_BUCKETS_S)
        self.tpot_s = self._histogram(
            "request_time_per_output_token_seconds", "Per token after a request's first.", TOKEN_BUCKETS_S
        )
        self.e2e_s = self._histogram("e2e_request_latency_seconds", "Arrival to end.", REQUEST_BUCKETS_S)
        self.request_prompt_tokens = self._histogram("request_prompt_tokens", "Prompt length.", LENGTH_BUCKETS_TOKENS)
        self.request_generation_tokens = self._histogram(
            "request_generation_tokens", "Output length.", LENGTH_BUCKETS_TOKENS
        )
        self._recovery_s = self._histogram("recovery_seconds", "Loss of workers to new ones.", RECOVERY_BUCKETS_S)
        self._num_recoveries = 0
        if predicted is not None:
            self._expose_predicted(predicted)

    def expose_experts(self, heats: Callable[[], Sequence[ExpertRows]]) -> None:
        """Expose how rows are distributed over experts. `heats`: returns the present state of every stage with experts;
        called for every exposition."""
        self._registry.register(_ExpertCollector(self.model_name, heats))

    def _expose_predicted(self, predicted: PredictedSpeed) -> None:
        load = f"{predicted.streams} streams of {predicted.prompt_tokens} + {predicted.output_tokens} tokens"
        for name, help_text, value in (
            ("output_tokens_per_second", "Output tokens/s", predicted.output_tokens_per_s),
            ("time_to_first_token_seconds", "Arrival to first token", predicted.ttft_s),
            ("time_per_output_token_seconds", "Per token after a request's first", predicted.tpot_s),
        ):
            gauge = Gauge(
                f"shoal:predicted_{name}", f"{help_text}, as planned.", ["model_name", "load"], registry=self._registry
            )
            gauge.labels(self.model_name, load).set(value)

    def timer(self, num_prompt_tokens: int, arrival_s: float, clock: Callable[[], float]) -> RequestTimer:
        """Start measuring one request."""
        return RequestTimer(self, num_prompt_tokens, arrival_s, clock)

    def count_end(self, finished_reason: str) -> None:
        """Count a request that ended with stop, length, abort or error."""
        self._success.labels(self.model_name, finished_reason).inc()

    def count_refusal(self, reason: str) -> None:
        """Count a call that was refused: queue_full or draining."""
        self._refusals.labels(self.model_name, reason).inc()

    def read_engine(self, stats: GenerationStats) -> None:
        """Set the engine's counters for the next exposition."""
        self._engine.stats = stats
        num_new = stats.num_recoveries - self._num_recoveries
        self._num_recoveries = stats.num_recoveries
        for recovery_s in stats.recoveries_s[-num_new:] if num_new else ():
            self._recovery_s.observe(recovery_s)

    def token_counts(self) -> dict[str, int]:
        """Prompt tokens of finished prefills and tokens generated so far."""
        labels = {"model_name": self.model_name}
        values = {name: self._registry.get_sample_value(f"shoal:{name}_total", labels) for name in _TOKEN_COUNTERS}
        return {name: int(value or 0) for name, value in values.items()}

    def expose(self) -> bytes:
        """The metrics in Prometheus's text format."""
        return generate_latest(self._registry)

    def _counter(self, name: str, help_text: str) -> Counter:
        return Counter(f"shoal:{name}", help_text, ["model_name"], registry=self._registry).labels(self.model_name)

    def _histogram(self, name: str, help_text: str, buckets: tuple[float, ...]) -> Histogram:
        family = Histogram(f"shoal:{name}", help_text, ["model_name"], buckets=buckets, registry=self._registry)
        return family.labels(self.model_name)


class RequestTimer:
    """Measures one request and reports it when it ends, exactly once."""

    def __init__(
        self, metrics: ServerMetrics, num_prompt_tokens: int, arrival_s: float, clock: Callable[[], float]
    ) -> None:
        self._metrics = metrics
        self._num_prompt_tokens = num_prompt_tokens
        self._arrival_s = arrival_s
        self._clock = clock
        self._first_token_s: float | None = None
        self._last_token_s = arrival_s
        self._num_tokens = 0
        self._finished = False

    def token(self) -> None:
        """Count one output token, now."""
        now_s, metrics = self._clock(), self._metrics
        if self._first_token_s is None:
            self._first_token_s = now_s
            metrics.ttft_s.observe(now_s - self._arrival_s)
            metrics.prompt_tokens.inc(self._num_prompt_tokens)
        else:
            metrics.itl_s.observe(now_s - self._last_token_s)
        metrics.generation_tokens.inc()
        metrics.last_token_s = self._last_token_s = now_s
        self._num_tokens += 1

    def finish(self, reason: str) -> None:
        """Report the request's end; later calls do nothing."""
        if self._finished:
            return
        self._finished = True
        metrics = self._metrics
        metrics.count_end(reason)
        metrics.e2e_s.observe(self._clock() - self._arrival_s)
        metrics.request_prompt_tokens.observe(self._num_prompt_tokens)
        metrics.request_generation_tokens.observe(self._num_tokens)
        if self._first_token_s is not None and self._num_tokens > 1:
            metrics.tpot_s.observe((self._last_token_s - self._first_token_s) / (self._num_tokens - 1))
