"""Conversion of a fault file's faults of machines into faults of workers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from math import inf

from shoal.errors import ConfigError
from shoal.planner.files.fault_file import DescribedFault
from shoal.sim.faults import Absence, Crash, Fault, Hang

NOTICED_S = 0.003
"""Seconds until a dead worker's link is seen to be broken: the kernel closes it at once, and the head waits on all
links."""

_Seat = tuple[int, int]
"""(replica, worker of it)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Workers:
    """The machines of all workers."""

    machines: Sequence[Sequence[str]]
    """[replica][worker]: the worker's machine."""

    def seats(self, fault: DescribedFault, number: int) -> list[_Seat]:
        """The workers that a fault concerns. Raises ConfigError if there is no such machine or worker."""
        if fault.machine is None:
            return [self._seat(fault, number)]
        found = [
            (replica, worker)
            for replica, own in enumerate(self.machines)
            for worker, machine in enumerate(own)
            if machine == fault.machine
        ]
        if not found:
            names = sorted({machine for own in self.machines for machine in own})
            close = get_close_matches(fault.machine, names, n=1)
            hint = f" (did you mean {close[0]}?)" if close else f"; there are {', '.join(names[:8])}"
            raise ConfigError(f"fault {number}: the plan uses no machine {fault.machine}{hint}")
        return found

    def _seat(self, fault: DescribedFault, number: int) -> _Seat:
        replica, worker = fault.replica or 0, fault.worker or 0
        if not (0 <= replica < len(self.machines) and 0 <= worker < len(self.machines[replica])):
            raise ConfigError(f"fault {number}: the plan has no worker {worker} of replica {replica}")
        return replica, worker


def faults_of(described: Sequence[DescribedFault], machines: Sequence[Sequence[str]]) -> list[Fault]:
    """Make the faults of workers.

    Args:
        described: the faults of the file, ordered by time.
        machines: the machines of each replica's workers, stage by stage and rank by rank.

    Raises:
        ConfigError: a fault names an unknown machine or worker, or a machine returns that was not gone.
    """
    workers = _Workers(machines=machines)
    seats = [workers.seats(fault, number) for number, fault in enumerate(described, 1)]
    returns = [(fault, own) for fault, own in zip(described, seats, strict=True) if fault.kind == "return"]
    faults: list[Fault] = []
    gone: set[_Seat] = set()
    for number, (fault, own) in enumerate(zip(described, seats, strict=True), 1):
        if fault.kind == "return":
            if not gone.issuperset(own):
                raise ConfigError(f"fault {number}: the machine that returns was not gone")
            gone.difference_update(own)
            continue
        gone.update(own if fault.kind == "cable" else ())
        faults += _befall(fault, own, returns)
    return faults


def _befall(
    fault: DescribedFault, seats: Sequence[_Seat], returns: Sequence[tuple[DescribedFault, list[_Seat]]]
) -> Iterator[Fault]:
    for replica, worker in seats:
        match fault.kind:
            case "kill":
                yield Crash(at_s=fault.at_s, replica=replica, noticed_after_s=NOTICED_S)
            case "hang":
                yield Hang(at_s=fault.at_s, replica=replica)
            case _:
                later = (one.at_s for one, own in returns if one.at_s > fault.at_s and (replica, worker) in own)
                yield Absence(at_s=fault.at_s, replica=replica, worker=worker, back_at_s=min(later, default=inf))
