"""A random scenario of an ONNX graph, drawn from a seed: replicas, requests and faults."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Literal

from shoal.core.batching.config import BatchingConfig
from shoal.core.plan.graph import BatchAxes
from shoal.core.recovery.config import RecoveryConfig
from shoal.sim.faults import Fault, Network, ReplicaJoins, Starting
from shoal.sim.scenario import draw_absences, draw_faults

Poison = Literal["refused", "crashes", "hangs"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchCost:
    """Seconds that a stage takes for a batch: fixed_s + elements * element_s."""

    fixed_s: float
    element_s: float

    def seconds(self, num_elements: int) -> float:
        return self.fixed_s + num_elements * self.element_s


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedRequest:
    """A client's request, which may be cancelled."""

    request_id: str
    at_s: float
    num_rows: int
    row_cost: int
    """Elements of a row; only rows with equally many run together."""
    timeout_s: float | None
    cancelled_at_s: float | None
    poison: Poison | None
    """What its first row does to a batch that contains it; None: nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchScenario:
    """Everything that determines a simulation run."""

    seed: int
    config: BatchingConfig
    axes: BatchAxes
    recovery: RecoveryConfig
    stages: tuple[int, ...]
    """The number of stages of each replica."""
    costs: tuple[BatchCost, ...]
    """The costs of each replica."""
    requests: tuple[SimulatedRequest, ...]
    faults: tuple[Fault, ...]
    network: Network
    starting: Starting
    cold_factor: float
    """The factor by which the first batch of new workers takes longer, because it touches cold memory, >= 1."""


def make_batch_scenario(seed: int) -> BatchScenario:
    """Draw a scenario. Sizes are small, so that limits are reached often and a run takes milliseconds."""
    rng = Random(seed)
    num_replicas = rng.randint(1, 3)
    is_quiet = rng.random() < 0.25
    axes = rng.choice((_axes(0, None), _axes(0, None), _axes(0, 4), _axes(None, None)))
    requests = _draw_requests(rng, is_quiet=is_quiet, has_rows=axes.is_batched)
    horizon_s = requests[-1].at_s + 0.5
    faults = () if is_quiet else draw_faults(rng, num_replicas, horizon_s=horizon_s)
    if rng.random() >= 0.8:
        faults += (ReplicaJoins(at_s=rng.uniform(0, horizon_s), replica=rng.randrange(num_replicas)),)
    stages = tuple(rng.randint(1, 3) for _ in range(num_replicas))
    if not is_quiet and rng.random() < 0.3:
        faults += draw_absences(rng, stages, horizon_s=horizon_s)
    return BatchScenario(
        seed=seed,
        config=BatchingConfig(
            max_batch=rng.randint(1, 8),
            batch_delay_s=rng.choice((0.0, 0.0, 0.05)),
            max_queue_rows=rng.choice((20, 4096)),
            min_cut_rows=rng.randint(1, 4),
        ),
        axes=axes,
        recovery=RecoveryConfig(
            worker_timeout_s=rng.uniform(0.1, 0.5), load_timeout_s=0.5, backoff_s=0.05, max_backoff_s=0.5, settled_s=0.5
        ),
        stages=stages,
        costs=tuple(
            BatchCost(fixed_s=rng.uniform(0.001, 0.02), element_s=rng.uniform(0.0001, 0.002))
            for _ in range(num_replicas)
        ),
        requests=requests,
        faults=faults,
        network=Network(
            repeat_probability=rng.choice((0.0, 0.1)),
            drop_probability=0.0 if is_quiet else rng.choice((0.0, 0.0, 0.01)),
            delay_s=rng.choice((0.0, 0.01)),
            late_probability=rng.choice((0.0, 0.5)),
        ),
        starting=Starting(
            shortest_s=0.01,
            longest_s=rng.uniform(0.02, 0.4),
            failure_probability=rng.choice((0.0, 0.0, 0.3)),
        ),
        cold_factor=rng.choice((1.0, 1.0, 3.0)),
    )


def _axes(axis: int | None, rows: int | None) -> BatchAxes:
    return BatchAxes(inputs={"x": axis}, outputs={"y": axis}, rows=rows)


def _draw_requests(rng: Random, *, is_quiet: bool, has_rows: bool) -> tuple[SimulatedRequest, ...]:
    """Draw bursts of up to 10 requests with rows of two sizes."""
    requests: list[SimulatedRequest] = []
    at_s = 0.0
    for _ in range(rng.randint(1, 6)):
        at_s += rng.expovariate(1 / 0.15)
        for _ in range(rng.randint(1, 10)):
            is_poison = not is_quiet and rng.random() < 0.05
            requests.append(
                SimulatedRequest(
                    request_id=f"r{len(requests)}",
                    at_s=at_s,
                    num_rows=rng.randint(1, 12) if has_rows else 1,
                    row_cost=rng.choice((1, 1, 3)),
                    timeout_s=rng.expovariate(1 / 0.3) if rng.random() < 0.2 else None,
                    cancelled_at_s=at_s + rng.expovariate(1 / 0.2) if rng.random() < 0.15 else None,
                    poison=rng.choice(("refused", "crashes", "hangs")) if is_poison else None,
                )
            )
    return tuple(requests)
