"""Estimates for all of a simulated time from the parts that were simulated, with confidence intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import hypot, sqrt

import numpy as np

from shoal.sim.cluster.outcome import AnsweredRequests, SimulationOutcome
from shoal.sim.sampling.intervals import NORMAL_QUANTILE, BatchSums, Interval, margin
from shoal.sim.sampling.sampled_column import LatencyIntervals, SampledColumn
from shoal.sim.sampling.sampler import SteadyStretch


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """How much of the time was simulated, and the confidence intervals of the estimates."""

    simulated_share: float
    num_stretches: int
    """Steady states of which a part was skipped."""
    num_simulated: int
    """Requests that were simulated."""
    num_requests: Interval
    ttft: LatencyIntervals
    tpot: LatencyIntervals
    e2e: LatencyIntervals


def estimate_all(
    outcome: SimulationOutcome,
    log: AnsweredRequests,
    stretches: Sequence[SteadyStretch],
    *,
    rate_per_s: float,
    num_workers: Mapping[str, int],
) -> tuple[SimulationOutcome, Sample]:
    """Estimate the outcome of all of the time from that of the simulated parts.

    Args:
        outcome: the outcome of the simulated requests; its duration includes skipped time.
        log: the latencies of these requests.
        stretches: the steady states of which a part was skipped, in order.
        rate_per_s: the rate at which requests arrived.
        num_workers: the number of workers on each machine.
    """
    answered = [[mark.num_answered for mark in one.marks] for one in stretches]
    paced = [[mark.num_paced for mark in one.marks] for one in stretches]
    columns = [(log.ttft_s, answered), (log.tpot_s, paced), (log.e2e_s, answered)]
    (ttft, ttft_within), (tpot, tpot_within), (e2e, e2e_within) = (
        SampledColumn(np.asarray(values, np.float64), bounds, stretches).estimate() for values, bounds in columns
    )
    skipped_s = sum(one.skipped_s for one in stretches)
    num_requests = _num_requests(outcome.num_requests, stretches, rate_per_s * skipped_s)
    prompts, outputs, refused, preempted = (round(one) for one in _skipped_counts(stretches))
    estimated = replace(
        outcome,
        num_requests=round((num_requests.low + num_requests.high) / 2),
        prompt_tokens=outcome.prompt_tokens + prompts,
        output_tokens=outcome.output_tokens + outputs,
        num_refused=outcome.num_refused + refused,
        num_preemptions=outcome.num_preemptions + preempted,
        ttft=ttft,
        tpot=tpot,
        e2e=e2e,
        busy_share=_busy_share(outcome, stretches, num_workers),
    )
    return estimated, Sample(
        simulated_share=1.0 - skipped_s / outcome.duration_s if outcome.duration_s else 1.0,
        num_stretches=len(stretches),
        num_simulated=outcome.num_requests,
        num_requests=num_requests,
        ttft=ttft_within,
        tpot=tpot_within,
        e2e=e2e_within,
    )


def _num_requests(simulated: int, stretches: Sequence[SteadyStretch], num_skipped: float) -> Interval:
    """The interval of answered requests: those that arrive minus those that are refused. The distribution of random
    arrivals is known."""
    refused = [
        BatchSums(sums=np.diff([mark.num_refused for mark in one.marks]).tolist(), skipped=one.skipped_batches)
        for one in stretches
    ]
    expected = simulated + num_skipped - sum(one.expected for one in refused)
    missed = hypot(NORMAL_QUANTILE * sqrt(num_skipped), margin(refused))
    return Interval(expected - missed, expected + missed)


def _skipped_counts(stretches: Sequence[SteadyStretch]) -> Sequence[float]:
    """Prompt tokens, output tokens, refused requests and preemptions of the skipped time, at the simulated rates."""
    totals = np.zeros(4)
    for one in stretches:
        counted = np.subtract(one.marks[-1].counts, one.marks[0].counts)
        totals += counted * (one.skipped_batches / one.num_batches)
    return totals.tolist()


def _busy_share(
    outcome: SimulationOutcome, stretches: Sequence[SteadyStretch], num_workers: Mapping[str, int]
) -> dict[str, float]:
    """The busy share of each machine, assuming that it was as busy in the skipped part of a state as in the simulated
    one."""
    if not outcome.duration_s:
        return outcome.busy_share
    shares = dict(outcome.busy_share)
    for one in stretches:
        first, last = one.marks[0].busy_s, one.marks[-1].busy_s
        scale = one.skipped_batches / one.num_batches / outcome.duration_s
        for machine, busy_s in last.items():
            shares[machine] += scale * (busy_s - first.get(machine, 0.0)) / num_workers[machine]
    return shares
