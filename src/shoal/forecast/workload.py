"""From traffic to the load that a plan is made for: how long requests are, and how many are under way at once."""

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
"""Requests at the beginning of a trace, whose means are planned for."""
_MOST_STREAMS = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpectedTraffic:
    """Traffic in a few numbers."""

    prompt_tokens: int
    """of a request, on average"""
    output_tokens: int
    clients: int | None = None
    """of a closed loop; None: the loop is open"""
    requests_per_s: float = 0.0
    """of an open one"""


def expected_traffic(spec: TrafficSpec) -> ExpectedTraffic:
    """The means of some traffic, of a trace those of its beginning. Raises ConfigError."""
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
    """Plan for the requests that the traffic keeps under way.

    Args:
        config: with the lengths of a request; its streams are used for the first guess.
        expected: the traffic; None: the streams of `config` are right.
        on_progress: told what is being measured.

    Raises:
        As `plan_cluster`.
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
    """The same for so many requests under way."""
    return replace(config, planning=replace(config.planning, streams=streams))
