"""The replicas to which a request may go, and which of them can ever serve it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from shoal.core.fleet.fleet_replica import FleetReplica
from shoal.core.generation.scheduler_config import SchedulerConfig, check_request
from shoal.core.sequences.request import Request
from shoal.errors import ShoalError


class Candidates:
    """Some replicas of a fleet, ordered by index. Valid until the limits of one of them change."""

    __slots__ = ("_able", "_configs", "indices", "replicas")

    def __init__(self, replicas: Sequence[FleetReplica]) -> None:
        self.replicas = replicas
        self.indices = np.array([one.index for one in replicas], np.intp)
        self._configs = list(dict.fromkeys(one.scheduler.config for one in replicas))
        """The distinct limits of the replicas; usually one or a few."""
        self._able: dict[frozenset[SchedulerConfig], Candidates] = {}
        """For a set of limits: the candidates without the replicas that have them."""

    def able(self, request: Request) -> Candidates:
        """The replicas that can serve a request; all of them if none can, so that one of them reports why."""
        refusing = frozenset(config for config in self._configs if refusal(config, request) is not None)
        if not refusing or len(refusing) == len(self._configs):
            return self
        if refusing not in self._able:
            able = [one for one in self.replicas if one.scheduler.config not in refusing]
            self._able[refusing] = Candidates(able)
        return self._able[refusing]


def refusal(config: SchedulerConfig, request: Request) -> ShoalError | None:
    """The reason for which a replica with such limits can never serve the request; None: it can."""
    try:
        check_request(config, request)
    except ShoalError as error:
        return error
    return None
