"""Decisions about machines that join, leave and return while a model is served: events in, effects out.

A replica that had lost workers, or was given up, gets them back when all its machines are there again. New machines are
used if the user asked for that, one change at a time. If the cluster's head is gone, this process ends by itself while
there is still time to finish open requests.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from typing import assert_never

from shoal.core.recovery.restoring import Restoring

LEAVE_AFTER_S = 15.0
"""Time without Ray's head after which this process ends. Ray ends connected processes after 60 s, and draining takes 25
s by default. Source: Ray 2.60, `gcs_rpc_server_reconnect_timeout_s`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MachinesSeen:
    """The cluster was polled for its machines."""

    joined: tuple[str, ...] = ()
    """Machines that have joined or returned since the previous poll, in order."""
    living: Set[str] = frozenset()
    """All machines that are there now."""
    troubles: Mapping[str, str] = field(default_factory=dict[str, str])
    """What is wrong with the other machines, by name; worded to follow the name in a sentence."""
    head_trouble: str | None = None
    """Why the cluster's head is taken to be gone; None: it answers."""
    failure: str | None = None
    """Why the poll failed, or why a machine that has joined cannot be used; None: neither."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaSeen:
    """The present state of a replica."""

    machines: Set[str]
    """The machines on which the replica is planned."""
    is_whole: bool
    """Whether it has, or will have, all its workers."""
    is_changing: bool
    """Whether its workers are being replaced."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicasSeen:
    """The states of all replicas were read."""

    replicas: tuple[ReplicaSeen, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanEnded:
    """The planning started by `FindPlan` has ended."""

    found: bool
    """Whether a change that pays was found. It is being made, and `ChangeEnded` follows."""
    failure: str | None = None
    """Why planning failed; None: it did not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeEnded:
    """The change that was found has been made, or has failed."""

    failure: str | None
    """Why the change failed; None: it was made."""


MembershipEvent = MachinesSeen | ReplicasSeen | PlanEnded | ChangeEnded


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportJoined:
    """Report that machines have joined or returned."""

    machines: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportMachine:
    """Report a new problem of a machine."""

    machine: str
    what: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportHead:
    """Report that the cluster's head is gone, or (`trouble` is None) that it answers again."""

    trouble: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportUnused:
    """Report why machines that joined are not used."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Leave:
    """Finish open requests and end this process."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FindPlan:
    """Measure new machines and look for a change that pays; `PlanEnded` must follow."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Restore:
    """Give a replica all the workers of its plan."""

    replica: int


MembershipEffect = ReportJoined | ReportMachine | ReportHead | ReportUnused | Leave | FindPlan | Restore


class ClusterMembership:
    """Membership decisions for one served model. All changes go through `handle`; `now_s` is monotonic."""

    def __init__(self, troubles: Mapping[str, str], *, uses_new: bool) -> None:
        """
        Args:
            troubles: the known problems of machines, by name.
            uses_new: whether machines that join are used.
        """
        self._uses_new = uses_new
        self._troubles = dict(troubles)
        self._living: Set[str] = frozenset()
        self._arrived: set[str] = set()
        """Machines that have joined since the replicas were last read."""
        self._restoring = Restoring()
        self._headless_since_s: float | None = None
        self._has_left = False
        self._is_to_plan = False
        self._is_planning = False
        """Whether a plan is being searched for, or a change made."""
        self._latest_failure: str | None = None

    def handle(self, event: MembershipEvent, now_s: float) -> list[MembershipEffect]:
        """Take in an event. Returns effects to carry out in order."""
        match event:
            case MachinesSeen():
                return self._see_machines(event, now_s)
            case ReplicasSeen(replicas=replicas):
                due = [index for index, one in enumerate(replicas) if self._is_to_restore(index, one, now_s)]
                self._arrived.clear()
                return [Restore(replica=index) for index in due]
            case PlanEnded(found=found, failure=failure):
                self._is_planning = found
                return self._note_failure(failure)
            case ChangeEnded(failure=failure):
                self._is_planning = False
                self._is_to_plan = failure is None  # one replica may not have used all new machines
                return self._note_failure(failure)
            case _:
                assert_never(event)

    def _see_machines(self, seen: MachinesSeen, now_s: float) -> list[MembershipEffect]:
        self._living = seen.living
        effects = [*self._see_head(seen.head_trouble, now_s), *self._see_troubles(seen.troubles)]
        if seen.failure is not None:
            return effects + ([] if seen.head_trouble is not None else self._note_failure(seen.failure))
        self._latest_failure = None
        if seen.joined:
            effects.append(ReportJoined(machines=seen.joined))
            self._arrived.update(seen.joined)
            self._is_to_plan = self._uses_new
        if self._is_to_plan and not self._is_planning:
            self._is_to_plan, self._is_planning = False, True
            effects.append(FindPlan())
        return effects

    def _see_head(self, trouble: str | None, now_s: float) -> list[MembershipEffect]:
        """Report at once that the cluster's head is gone, and leave after LEAVE_AFTER_S."""
        if trouble is None:
            was_gone, self._headless_since_s = self._headless_since_s is not None, None
            return [ReportHead(trouble=None)] if was_gone else []
        if self._headless_since_s is None:
            self._headless_since_s = now_s
            return [ReportHead(trouble=trouble)]
        if self._has_left or now_s - self._headless_since_s < LEAVE_AFTER_S:
            return []
        self._has_left = True
        return [Leave(reason=trouble)]

    def _see_troubles(self, troubles: Mapping[str, str]) -> list[MembershipEffect]:
        told, self._troubles = self._troubles, dict(troubles)
        return [ReportMachine(machine=name, what=what) for name, what in troubles.items() if told.get(name) != what]

    def _is_to_restore(self, index: int, replica: ReplicaSeen, now_s: float) -> bool:
        """Whether to restore a replica now: at once when one of its machines is back, otherwise now and then."""
        if not self._arrived.isdisjoint(replica.machines):
            self._restoring.note_back(index, now_s)
        if replica.is_whole:
            self._restoring.note_whole(index)
            return False
        is_due = self._restoring.is_due(index, now_s)
        if not is_due or replica.is_changing or not replica.machines <= self._living:
            return False
        self._restoring.note_try(index, now_s)
        return True

    def _note_failure(self, failure: str | None) -> list[MembershipEffect]:
        """Report a failure, unless it is the same as the latest one."""
        if failure is None or failure == self._latest_failure:
            return []
        self._latest_failure = failure
        return [ReportUnused(reason=failure)]
