"""What a simulation of a cluster is determined by."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from shoal.core.generation.admission import AdmissionConfig
from shoal.core.recovery.config import RecoveryConfig
from shoal.core.speed.routing import Routing
from shoal.planner.speeds.serving import NO_SERVING, ServingTimes
from shoal.planner.speeds.unevenness import EVEN, Unevenness
from shoal.sim.cluster.predicted_workers import SimulatedReplicaPlan
from shoal.sim.faults import Fault
from shoal.sim.traffic.visit import Traffic

WithoutWorker = Callable[[int, int], SimulatedReplicaPlan]
"""What becomes of a replica that is planned anew without one of its workers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterScenario:
    """Everything that a simulation is determined by."""

    replicas: tuple[SimulatedReplicaPlan, ...]
    without_worker: WithoutWorker
    traffic: Traffic
    faults: Sequence[Fault] = ()
    recovery: RecoveryConfig = field(default_factory=RecoveryConfig)
    admission: AdmissionConfig = field(default_factory=AdmissionConfig)
    routing: Routing = "earliest-finish"
    seed: int = 0
    serving: ServingTimes = NO_SERVING
    """what requests and tokens cost beside the model"""
    num_cores: int | None = None
    """of the machine on which head and workers are together; None: the head has one of its own"""
    unevenness: Unevenness = EVEN
    """of that machine's speed"""
    takes_stretches: bool = True
    """whether steps in which nothing is decided are taken at once, where nothing but their rows says how long they
    take; the outcome is the same"""

    @property
    def is_steady(self) -> bool:
        """Whether nothing but its rows says how long a step takes."""
        has_head = self.num_cores is not None or self.serving != NO_SERVING
        return not has_head and all(one.times.is_steady for one in self.replicas)
