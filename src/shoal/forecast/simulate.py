"""Simulation of a planned cluster under some traffic: latencies, costs, and the effects of faults."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from shoal.config import user_path
from shoal.core.recovery.config import RecoveryConfig
from shoal.core.speed.routing import Routing
from shoal.errors import ConfigError
from shoal.forecast.planned_cluster import PlannedCluster
from shoal.planner.files.fault_file import DescribedFault, parse_fault_file
from shoal.planner.files.yaml_text import read_small_text
from shoal.sim.cluster.cluster_faults import faults_of
from shoal.sim.cluster.cluster_scenario import ClusterScenario
from shoal.sim.cluster.cluster_simulation import ClusterSimulation
from shoal.sim.cluster.outcome import AnsweredRequests, SimulationOutcome
from shoal.sim.sampling.estimates import Sample
from shoal.sim.sampling.sampled_simulation import SampledSimulation
from shoal.sim.sampling.sampler import SamplingConfig
from shoal.sim.traffic.trace_file import read_trace
from shoal.sim.traffic.visit import Clients, Traffic, poisson

_DAY_S = 86_400.0
_HOUR_S = 3600.0
_MILLION = 1e6
_MOST_CLIENTS = 1_000_000
_HIGHEST_RATE_PER_S = 1e6
"""Bounds on generated traffic that keep typing errors from becoming hours of work. Judgments."""
_MAX_FAULT_BYTES = 1 << 24
"""The largest fault file. A judgment: enough for the largest number of faults, one per line."""
_USUAL_S = 600.0
"""The default duration of generated traffic: ten minutes."""
_MOST_REQUESTS = 20_000_000
"""The most generated requests that are simulated in full: hours of processor time, half a gigabyte for latencies."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Simulated:
    """The results of a simulation."""

    outcome: SimulationOutcome
    log: AnsweredRequests
    cost_per_million: float | None
    """The cost of a million output tokens, in the currency of the file; None: no machine has a price."""
    sample: Sample | None = None
    """The precision of the outcome if a part of the time was skipped; None: all of it was simulated."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrafficSpec:
    """The value of `--traffic`, with the lengths of generated requests."""

    text: str
    """FILE | poisson:RATE | closed:N"""
    prompt_tokens: int = 128
    output_tokens: int = 64
    days: float | None = None
    """Days for which requests arrive; None: the length of the trace, or ten minutes."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.days is not None and not 0.0 < self.days < float("inf"):
            raise ConfigError(f"--days is {self.days:g}, but it must be more than 0")

    @property
    def until_s(self) -> float:
        """The latest arrival of a generated request."""
        return _USUAL_S if self.days is None else self.days * _DAY_S

    @property
    def num_clients(self) -> int | None:
        """The number of clients of a closed loop; None: the loop is open. Raises ConfigError if it is invalid."""
        kind, colon, number = self.text.partition(":")
        if not (colon and kind == "closed"):
            return None
        if not number.isdecimal() or len(number) > 7 or not 1 <= int(number) <= _MOST_CLIENTS:
            raise ConfigError(
                f"--traffic {self.text}: give closed:N with a number of clients from 1 to {_MOST_CLIENTS}, such as "
                "closed:16"
            )
        return int(number)

    @property
    def rate_per_s(self) -> float | None:
        """The rate of a Poisson process; None: the traffic is another one. Raises ConfigError if it is invalid."""
        kind, colon, number = self.text.partition(":")
        if not (colon and kind == "poisson"):
            return None
        try:
            rate = float(number)
        except ValueError:
            rate = 0.0
        if not 0.0 < rate < _HIGHEST_RATE_PER_S:
            raise ConfigError(
                f"--traffic {self.text}: give poisson:RATE with a number of requests a second above 0 and below "
                f"{_HIGHEST_RATE_PER_S:g}, such as poisson:2.5"
            )
        return rate

    def check_size(self) -> None:
        """Raises ConfigError if the traffic has more generated requests than are simulated in full."""
        num_requests = (self.rate_per_s or 0.0) * self.until_s
        if num_requests > _MOST_REQUESTS:
            raise ConfigError(
                f"--traffic {self.text} makes {num_requests / 1e6:.0f} million requests in {self.until_s:g} s, but at "
                f"most {_MOST_REQUESTS // 1_000_000} million are simulated in full: give fewer --days, a lower rate or "
                "--sample"
            )

    def sampling(self, percent: float) -> SamplingConfig:
        """Settings for sampling its steady states. `percent`: as in `--sample`. Raises ConfigError if it has none."""
        if not 0.1 <= percent <= 50.0:
            raise ConfigError(f"--sample {percent:g}: give a percentage from 0.1 to 50")
        if (rate := self.rate_per_s) is None:
            raise ConfigError(
                f"--sample: --traffic {self.text} changes with time or with the answers; only poisson:RATE "
                "has steady states in which a part can stand for the whole"
            )
        return SamplingConfig(rate_per_s=rate, until_s=self.until_s, precision=percent / 100.0)

    def open(self) -> Traffic:
        """The traffic from its beginning. Raises ConfigError if it is invalid."""
        if (clients := self.num_clients) is not None:
            return Clients(
                count=clients,
                prompt_tokens=self.prompt_tokens,
                output_tokens=self.output_tokens,
                until_s=self.until_s,
            )
        if (rate := self.rate_per_s) is not None:
            return poisson(
                rate,
                prompt_tokens=self.prompt_tokens,
                output_tokens=self.output_tokens,
                until_s=self.until_s,
                seed=self.seed,
            )
        path = user_path(self.text)
        if not path.is_file():
            raise ConfigError(f"--traffic {self.text}: there is no such file; give a file, poisson:RATE or closed:N")
        visits = read_trace(path)
        return visits if self.days is None else takewhile(lambda visit: visit.at_s < self.until_s, visits)


def read_fault_file(path: Path | None) -> Sequence[DescribedFault]:
    """Read a fault file; without a path there are no faults. Raises ConfigError."""
    if path is None:
        return ()
    return parse_fault_file(read_small_text(path, max_bytes=_MAX_FAULT_BYTES, holder="list of faults"), str(path))


def simulate(
    cluster: PlannedCluster,
    traffic: Traffic,
    *,
    faults: Sequence[DescribedFault] = (),
    routing: Routing = "earliest-finish",
    recovery: RecoveryConfig | None = None,
    seed: int = 0,
    clients_here: bool = False,
    sampling: SamplingConfig | None = None,
    on_progress: Callable[[float], None] = lambda now_s: None,
) -> Simulated:
    """Run the traffic through the cluster to its end. The same arguments give the same result.

    Args:
        cluster: the planned cluster.
        traffic: the requests.
        faults: the faults.
        routing: the rule that chooses a request's replica.
        recovery: when workers count as lost; None: as in a server.
        seed: the seed of all random numbers.
        clients_here: whether clients run on the head's machine, as those of `shoal bench serve` may.
        sampling: settings for skipping most of the steady states; None: all of the time is simulated.
        on_progress: called with the virtual time now and then.

    Raises:
        ConfigError: a fault names an unknown machine or worker, the trace is invalid, or sampling is requested for this
            machine, whose cores the head shares.
    """
    replicas = cluster.replicas()
    scenario = ClusterScenario(
        replicas=replicas,
        without_worker=cluster.without_worker,
        traffic=traffic,
        faults=faults_of(faults, [one.workers for one in replicas]),
        recovery=recovery or RecoveryConfig(),
        routing=routing,
        seed=seed,
        serving=cluster.serving if clients_here else cluster.serving.without_clients(),
        num_cores=cluster.num_cores,
    )
    sample = None
    if sampling is None:
        outcome, log = ClusterSimulation(scenario, on_progress).run()
    elif not scenario.is_steady:
        raise ConfigError(
            "--sample: the cluster is this machine, which is simulated in full; describe machines with --cluster FILE"
        )
    else:
        outcome, log, sample = SampledSimulation(scenario, sampling, on_progress).run_sampled()
    return Simulated(outcome=outcome, log=log, cost_per_million=_cost(cluster, outcome), sample=sample)


def _cost(cluster: PlannedCluster, outcome: SimulationOutcome) -> float | None:
    """The cost per million output tokens; machines of the plan are paid for the whole time, busy or not."""
    used = sorted(set(cluster.machines) & cluster.prices_per_hour.keys())
    if not used or not outcome.output_tokens:
        return None
    price_per_s = sum(cluster.prices_per_hour[name] for name in used) / _HOUR_S
    return price_per_s * outcome.duration_s / outcome.output_tokens * _MILLION
