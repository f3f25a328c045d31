"""What `shoal simulate` prints: a plan in a line, what clients saw, how busy machines were; or one JSON object."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict
from statistics import fmean
from typing import Any

from rich.table import Table

from shoal.cli.show.output import counted, note, print_table
from shoal.cli.show.plan_rows import MOST_ROWS, brief_split
from shoal.forecast.planned_cluster import InService, PlannedCluster
from shoal.forecast.simulate import Simulated
from shoal.planner.files.fault_file import DescribedFault
from shoal.planner.files.plan_data import plan_dict
from shoal.planner.speeds.drift import Drift
from shoal.planner.speeds.unevenness import Unevenness, factor_beyond
from shoal.sim.cluster.outcome import LatencyPercentiles
from shoal.sim.sampling.estimates import Sample
from shoal.sim.sampling.intervals import Interval
from shoal.sim.sampling.sampled_column import LatencyIntervals

_NUMBERED = re.compile(r"(.+)-\d+")


def print_simulation(planned: PlannedCluster, result: Simulated) -> None:
    """All of it for a person, on stdout."""
    plan, outcome = planned.plan, result.outcome
    machines = counted(len(set(planned.machines)), "machine")
    print(
        f"{plan.model}  split {brief_split(plan.split, plan.num_workers)}  on {machines}\n"
        f"{outcome.num_requests} requests in {outcome.duration_s:.1f} s: {outcome.requests_per_s:.2f} requests/s, "
        f"{outcome.output_tokens_per_s:.1f} output tokens/s"
    )
    if planned.drift is not None:
        print(describe_drift(planned.drift))
    if planned.in_service is not None:
        print(describe_service(planned.in_service, planned.unevenness))
    table = Table(title="what clients see", title_justify="left")
    for column in ("", "p50", "p95", "p99"):
        table.add_column(column, justify="left" if not column else "right")
    within = result.sample
    table.add_row("time to first token", *_cells(outcome.ttft, within and within.ttft, "s"))
    table.add_row("per token", *_cells(outcome.tpot, within and within.tpot, "ms"))
    table.add_row("end to end", *_cells(outcome.e2e, within and within.e2e, "s"))
    print_table(table)
    if within is not None:
        _print_sample(within)
    _print_machines(outcome.busy_share)
    print(f"requests lost: {outcome.num_lost}; refused: {outcome.num_refused}; preempted: {outcome.num_preemptions}")
    if outcome.first_refusal:
        print(f"the first of the refused requests: {outcome.first_refusal}")
    if outcome.num_losses:
        pauses = outcome.recoveries_s
        longest = f", the longest without workers for {max(pauses):.2f} s" if pauses else ""
        print(
            f"losses of a replica's workers: {outcome.num_losses}{longest}; tokens computed again: "
            f"{outcome.replayed_tokens}; replicas given up: {outcome.num_given_up}"
        )
    if result.cost_per_million is not None:
        print(f"cost: {result.cost_per_million:.3f} per million output tokens")
    if outcome.num_lost:
        note("warning: requests were lost; in `shoal simulate` that means that no replica was left for them")


def note_late_faults(faults: Sequence[DescribedFault], duration_s: float) -> None:
    """Warn of faults that befall nobody. `duration_s`: when the last request had ended."""
    late = [fault.at_s for fault in faults if fault.kind != "return" and fault.at_s > duration_s]
    if late:
        note(
            f"warning: {len(late)} of {len(faults)} faults come after the last request has ended, at "
            f"{duration_s:.1f} s, the first of them at {min(late):.1f} s"
        )


def describe_drift(drift: Drift) -> str:
    """How far workers are as fast as they were, and what that means for the figures."""
    times = (
        f"writing takes {drift.decode:.2f} and reading prompts {drift.prefill:.2f} times as long as in their profile"
    )
    kept = "is used as it is" if drift.is_tolerated else "was scaled by that, step by step (--refresh takes another)"
    return f"workers were looked at just now: {times}, which {kept}; their seconds are good to ±{drift.error:.0%}"


def describe_service(found: InService, swings: Sequence[Unevenness]) -> str:
    """How much slower workers are while they serve, and how much their speed swings: both are in the figures."""
    tenth, hundredth = (factor_beyond(swings, share) for share in (0.1, 0.01))
    return (
        f"in service, prompts take {found.prefill:.2f} times as long as alone, a token {found.one_row:.2f} and several "
        f"at once {found.many_rows:.2f} times;\nfor a tenth of the time all of them take {tenth:.2f} times as long as "
        f"on average or more, for a hundredth {hundredth:.2f} times or more"
    )


def simulation_dict(planned: PlannedCluster, result: Simulated) -> dict[str, Any]:
    """All of it as plain data."""
    outcome = result.outcome
    return {
        "plan": plan_dict(planned.plan),
        **asdict(outcome),
        "output_tokens_per_s": outcome.output_tokens_per_s,
        "requests_per_s": outcome.requests_per_s,
        "cost_per_million_output_tokens": result.cost_per_million,
        "drift": None if planned.drift is None else _drift_dict(planned.drift),
        "in_service": None if planned.in_service is None else _service_dict(planned.in_service, planned.unevenness),
        "sample": None if result.sample is None else asdict(result.sample),
    }


def _service_dict(found: InService, swings: Sequence[Unevenness]) -> dict[str, float]:
    slowest = {"slowest_tenth": factor_beyond(swings, 0.1), "slowest_hundredth": factor_beyond(swings, 0.01)}
    return {**asdict(found), **slowest}


def _drift_dict(drift: Drift) -> dict[str, float]:
    return {"decode": drift.decode, "prefill": drift.prefill, "spread": drift.spread, "error": drift.error}


def _cells(seconds: LatencyPercentiles, within: LatencyIntervals | None, unit: str) -> list[str]:
    """Each percentile, below it where it lies if not all of the time was simulated."""
    factor, digits = (1.0, 3) if unit == "s" else (1e3, 2)
    cells: list[str] = []
    for name in ("p50_s", "p95_s", "p99_s"):
        cell = f"{getattr(seconds, name) * factor:.{digits}f} {unit}"
        if within is not None:
            interval: Interval = getattr(within, name)
            cell += f"\n{interval.low * factor:.{digits}f} to {interval.high * factor:.{digits}f}"
        cells.append(cell)
    return cells


def _print_sample(sample: Sample) -> None:
    """What was simulated, and what the intervals mean."""
    print(
        f"simulated: {sample.simulated_share:.1%} of the time, {sample.num_simulated} requests, all faults with their "
        f"recoveries; of {sample.num_stretches} steady states a part stands for the rest. Over all of the time, 95 "
        f"times of 100: {sample.num_requests.low:.0f} to {sample.num_requests.high:.0f} requests, and percentiles as "
        "above"
    )


def _print_machines(busy_share: dict[str, float]) -> None:
    """A row a machine; of many, a row a kind."""
    kinds: dict[str, list[float]] = {}
    for machine, share in busy_share.items():
        numbered = _NUMBERED.fullmatch(machine)
        kinds.setdefault(numbered[1] if numbered and len(busy_share) > MOST_ROWS else machine, []).append(share)
    table = Table(title="how busy machines are", title_justify="left")
    for column in ("machine", "number", "least", "mean", "most"):
        table.add_column(column, justify="left" if column == "machine" else "right")
    for kind, shares in kinds.items():
        cells = (f"{value:.0%}" for value in (min(shares), fmean(shares), max(shares)))
        table.add_row(kind, str(len(shares)), *cells)
    print_table(table)
