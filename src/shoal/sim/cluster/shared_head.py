"""The head of a simulated cluster, and the cores that it shares with workers of its own machine.

The head has two threads, one that forms steps and one that answers clients; each does one thing at a time. Their
processor time, and that of clients on the same machine, comes from cores on which no worker computes. The rest is taken
from the workers, whose steps take longer by it: the threads and shards of a step synchronize after every matrix, every
few tens of microseconds, so a delay of one delays all.
"""

from __future__ import annotations

from collections.abc import Hashable

from shoal.planner.speeds.serving import NO_SERVING, ServingTimes


class SharedCores:
    """The cores of one machine. Times are on the simulation's clock and go back by at most a step."""

    def __init__(self, num_cores: int) -> None:
        """Start without work. `num_cores`: cores that workers, head and clients may use, at least 1."""
        self._num_cores = num_cores
        self._owed_s = 0.0
        """Seconds of processor time that were requested and not provided yet."""
        self._busy_until_s: dict[Hashable, tuple[float, int]] = {}
        """(end, number of threads) of each stage that computes."""
        self._idle_since_s = 0.0

    def owe(self, seconds: float) -> None:
        """Request processor time for head or clients, from now on."""
        self._owed_s += seconds

    def stretch(self, stage: Hashable, at_s: float, seconds: float, num_threads: int) -> float:
        """Seconds that a step of a stage really takes. Mutates: requested processor time is provided.

        Args:
            stage: the stage, which computes one step at a time.
            at_s: when the step begins.
            seconds: the seconds of the step with cores of its own.
            num_threads: threads of all workers of the stage.
        """
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
    """The process that forms the steps of all replicas and answers all clients. Mutable."""

    def __init__(self, serving: ServingTimes = NO_SERVING, cores: SharedCores | None = None) -> None:
        """Start without work.

        Args:
            serving: processor time of requests and tokens; clients on other machines take none.
            cores: the cores that it shares with workers; None: it has a machine of its own.
        """
        self._serving, self.cores = serving, cores
        self._steps_free_s = self._answers_free_s = self._clients_free_s = self._told_s = 0.0
        self.computing_until_s = 0.0
        """When the latest step of any replica ends; until then no worker computes alone."""
        self.busy_s: dict[str, float] = {}
        """Seconds that the workers of each machine have computed."""

    def take_in(self, sent_s: float) -> float:
        """The time at which a request reaches the replicas if its client begins to send it at `sent_s`."""
        times = self._serving
        self._owe(times.client_request_s + times.request_s)
        self._clients_free_s = max(sent_s, self._clients_free_s) + times.client_request_s
        self._answers_free_s = max(self._clients_free_s, self._answers_free_s) + times.request_s
        return self._answers_free_s

    def send(self, now_s: float, head_s: float) -> float:
        """The time at which a step is sent that takes `head_s` to form and send."""
        self._owe(head_s)
        self._steps_free_s = max(now_s, self._steps_free_s) + head_s
        return self._steps_free_s

    def tell(self, now_s: float) -> float:
        """The time at which a client receives a token that a replica produces now."""
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
