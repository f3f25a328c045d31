"""The scenario of a simulated cluster."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from shoal.core.generation.admission import AdmissionConfig
from shoal.core.recovery.config import RecoveryConfig
from shoal.core.speed.routing import Routing
from shoal.planner.speeds.serving import NO_SERVING, ServingTimes
from shoal.sim.cluster.predicted_workers import SimulatedReplicaPlan
from shoal.sim.faults import Fault
from shoal.sim.traffic.visit import Traffic

WithoutWorker = Callable[[int, int], SimulatedReplicaPlan]
"""Plans a replica (by index) again without one of its workers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterScenario:
    """Everything that determines a simulation of a cluster."""

    replicas: tuple[SimulatedReplicaPlan, ...]
    without_worker: WithoutWorker
    traffic: Traffic
    faults: Sequence[Fault] = ()
    recovery: RecoveryConfig = field(default_factory=RecoveryConfig)
    admission: AdmissionConfig = field(default_factory=AdmissionConfig)
    routing: Routing = "earliest-finish"
    seed: int = 0
    serving: ServingTimes = NO_SERVING
    """Processor time of requests and tokens beside the model."""
    num_cores: int | None = None
    """Cores of the machine that head and workers share; None: the head has a machine of its own."""
    takes_stretches: bool = True
    """Whether steps without decisions are taken together if their times depend only on their rows. The outcome is the
    same."""

    @property
    def is_steady(self) -> bool:
        """Whether the time of a step depends only on its rows."""
        has_head = self.num_cores is not None or self.serving != NO_SERVING
        return not has_head and all(one.times.is_steady and one.unevenness.is_even for one in self.replicas)
