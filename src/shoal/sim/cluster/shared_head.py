"""The head of a simulated cluster, and the cores that it shares with workers of its own machine.

The head has two threads: one forms steps, one answers clients; each does one thing after the other. Their processor
time, and that of clients on the same machine, is had from cores on which no worker computes; what these do not have is
taken from the workers, whose steps take longer by it. The threads of a step meet after every matrix, each some tens of
microseconds, and so do its shards: whoever is put off puts all of them off.
"""

from __future__ import annotations

from collections.abc import Hashable

from shoal.planner.speeds.serving import NO_SERVING, ServingTimes
from shoal.planner.speeds.unevenness import EVEN, Unevenness


class SharedCores:
    """Cores of one machine. Times are those of the simulation, and never go back by more than a step."""

    def __init__(self, num_cores: int, unevenness: Unevenness = EVEN) -> None:
        """Nothing is to be done yet.

        Args:
            num_cores: that workers, head and clients may use, at least 1.
            unevenness: of all cores' speed; the few microseconds of head and clients are taken for even.
        """
        self._num_cores, self._unevenness = num_cores, unevenness
        self._owed_s = 0.0
        """processor time that is asked for and not had"""
        self._busy_until_s: dict[Hashable, tuple[float, int]] = {}
        """of stages that compute: until when, and on how many threads"""
        self._idle_since_s = 0.0

    def owe(self, seconds: float) -> None:
        """Somebody beside the workers needs so much processor time, from now on."""
        self._owed_s += seconds

    def stretch(self, stage: Hashable, at_s: float, seconds: float, num_threads: int) -> float:
        """Seconds that a step of a stage takes in truth. Mutates: what is owed is paid.

        Args:
            stage: whose step it is; it computes one at a time.
            at_s: when it begins.
            seconds: that it takes on average with its cores to itself.
            num_threads: of all its workers.
        """
        seconds = self._unevenness.stretch(at_s, seconds)
        others = {one: busy for one, busy in self._busy_until_s.items() if one != stage and busy[0] > at_s}
        between_s = max(0.0, at_s - self._idle_since_s) * self._num_cores
        taken_s = sum(count * min(until_s - at_s, seconds) for until_s, count in others.values())
        beside_s = max(0.0, (self._num_cores - num_threads) * seconds - taken_s)
        stolen_s = max(0.0, self._owed_s - between_s - beside_s)
        self._owed_s = 0.0
        stretched_s = seconds + stolen_s
        self._busy_until_s = {**others, stage: (at_s + stretched_s, num_threads)}
        self._idle_since_s = max(self._idle_since_s, at_s + stretched_s)
        return stretched_s


class SharedHead:
    """The one process that forms the steps of all replicas and answers all clients. Mutable."""

    def __init__(self, serving: ServingTimes = NO_SERVING, cores: SharedCores | None = None) -> None:
        """Nothing is to be done yet.

        Args:
            serving: what requests and tokens cost; clients on other machines cost nothing.
            cores: of its machine, where workers compute there, too; None: it has a machine of its own.
        """
        self._serving, self.cores = serving, cores
        self._steps_free_s = self._answers_free_s = self._clients_free_s = self._told_s = 0.0
        self.computing_until_s = 0.0
        """when the latest step of any replica is computed: until then no worker is alone"""
        self.busy_s: dict[str, float] = {}
        """seconds that the workers of each machine have computed, summed"""

    def take_in(self, sent_s: float) -> float:
        """When a request that a client begins to send reaches the replicas."""
        times = self._serving
        self._owe(times.client_request_s + times.request_s)
        self._clients_free_s = max(sent_s, self._clients_free_s) + times.client_request_s
        self._answers_free_s = max(self._clients_free_s, self._answers_free_s) + times.request_s
        return self._answers_free_s

    def send(self, now_s: float, head_s: float) -> float:
        """When a step leaves that takes so long to form and to send."""
        self._owe(head_s)
        self._steps_free_s = max(now_s, self._steps_free_s) + head_s
        return self._steps_free_s

    def tell(self, now_s: float) -> float:
        """When a client has a token that a replica produced now."""
        times = self._serving
        step_s = 0.0 if now_s == self._told_s else times.step_s
        self._told_s = now_s
        self._owe(step_s + times.token_s + times.client_token_s)
        self._answers_free_s = max(now_s, self._answers_free_s) + step_s + times.token_s
        told_s = max(self._answers_free_s, self._clients_free_s)
        self._clients_free_s = told_s + times.client_token_s
        return told_s

    def _owe(self, seconds: float) -> None:
        if self.cores is not None:
            self.cores.owe(seconds)
