"""The load that a plan is made for, from traffic: the length of requests and the number of concurrent ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import islice
from math import ceil

from shoal.config import LaunchConfig
from shoal.errors import ConfigError
from shoal.forecast.planned_cluster import PlannedCluster, plan_cluster
from shoal.forecast.simulate import TrafficSpec
from shoal.planner.split.split_spec import AUTO
from shoal.sim.traffic.visit import Clients

_LOOKED_AT = 2000
"""The number of requests at the beginning of a trace whose means are used for planning."""
_MOST_STREAMS = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpectedTraffic:
    """Means of some traffic."""

    prompt_tokens: int
    """Mean prompt tokens of a request."""
    output_tokens: int
    """Mean output tokens of a request."""
    clients: int | None = None
    """Clients of a closed loop; None: the loop is open."""
    requests_per_s: float = 0.0
    """The rate of an open loop."""


def expected_traffic(spec: TrafficSpec) -> ExpectedTraffic:
    """The means of some traffic; for a trace, those of its beginning. Raises ConfigError if it is invalid."""
    traffic = spec.open()
    if isinstance(traffic, Clients):
        return ExpectedTraffic(
            prompt_tokens=spec.prompt_tokens, output_tokens=spec.output_tokens, clients=traffic.count
        )
    visits = list(islice(traffic, _LOOKED_AT))
    if not visits:
        raise ConfigError(f"--traffic {spec.text}: no request arrives within that time")
    return ExpectedTraffic(
        prompt_tokens=ceil(sum(visit.prompt_tokens for visit in visits) / len(visits)),
        output_tokens=ceil(sum(visit.output_tokens for visit in visits) / len(visits)),
        requests_per_s=spec.rate_per_s or len(visits) / max(visits[-1].at_s, 1.0),
    )


def plan_for_traffic(
    config: LaunchConfig,
    expected: ExpectedTraffic | None,
    on_progress: Callable[[str], None] = lambda what: None,
) -> PlannedCluster:
    """Plan for the concurrent requests of some traffic.

    Args:
        config: the configuration, with the lengths of a request; its streams are the first guess.
        expected: the traffic; None: the streams of `config` are used.
        on_progress: called with what is being measured.

    Raises: as `plan_cluster`.
    """
    if expected is not None and expected.clients is not None:
        config = with_streams(config, expected.clients)
    planned = plan_cluster(config, on_progress)
    if expected is None or expected.clients is not None or config.split != AUTO or config.plan_file is not None:
        return planned
    predicted = planned.plan.predicted
    assert predicted is not None
    request_s = predicted.ttft_s + (predicted.output_tokens - 1) * predicted.tpot_s
    streams = min(_MOST_STREAMS, ceil(expected.requests_per_s * request_s))  # Little's law
    return planned if streams <= 1 else plan_cluster(with_streams(config, streams))


def with_streams(config: LaunchConfig, streams: int) -> LaunchConfig:
    """The configuration for so many concurrent requests."""
    return replace(config, planning=replace(config.planning, streams=streams))
