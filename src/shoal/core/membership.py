"""What becomes of machines that join, leave and come back while a model is served: events in, effects out.

A replica that had to do without some of its workers, or was given up, is given them back when its machines are all
there again. New machines are used where that was asked for, one change at a time. Without whoever knows the machines
this process leaves by itself, while there is time to finish what is open.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from typing import assert_never

from shoal.core.recovery.restoring import Restoring

LEAVE_AFTER_S = 15.0
"""Without Ray's head. Ray ends whatever is connected to it after 60 s; a drain takes 25 s by default.
Source: Ray 2.60, `gcs_rpc_server_reconnect_timeout_s`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MachinesSeen:
    """Machines were looked for."""

    joined: tuple[str, ...] = ()
    """those that have joined or are back since the time before, in order"""
    living: Set[str] = frozenset()
    """all that are there"""
    troubles: Mapping[str, str] = field(default_factory=dict[str, str])
    """what is wrong with the others, by name; it follows the name in a sentence"""
    head_trouble: str | None = None
    """why who knows the machines is taken to be gone; None: it answers"""
    failure: str | None = None
    """why the look failed, or a machine that has joined cannot be used"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaSeen:
    """A replica as it is now."""

    machines: Set[str]
    """that it is planned on"""
    is_whole: bool
    """it has, or will have, all its workers"""
    is_changing: bool
    """it is being given others"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicasSeen:
    """Replicas were looked at."""

    replicas: tuple[ReplicaSeen, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanEnded:
    """The planning that was asked for has ended."""

    found: bool
    """a change that pays was found, which is being made: `ChangeEnded` follows"""
    failure: str | None = None
    """why there could be none"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeEnded:
    """The change that was found is made, or will never be."""

    failure: str | None
    """why it will not"""


MembershipEvent = MachinesSeen | ReplicasSeen | PlanEnded | ChangeEnded


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportJoined:
    """Tell that machines have joined or are back."""

    machines: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportMachine:
    """Tell what is newly wrong with a machine."""

    machine: str
    what: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportHead:
    """Tell that who knows the machines is gone, or answers again."""

    trouble: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportUnused:
    """Tell why machines that joined are not used."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Leave:
    """Finish what is open and end this process."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FindPlan:
    """Measure what is new and look for a change that pays: `PlanEnded` is to follow."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Restore:
    """Give a replica the workers that it is planned with."""

    replica: int


MembershipEffect = ReportJoined | ReportMachine | ReportHead | ReportUnused | Leave | FindPlan | Restore


class ClusterMembership:
    """Decides for one served model. All changes go through `handle`; `now_s` is on one monotonic clock."""

    def __init__(self, troubles: Mapping[str, str], *, uses_new: bool) -> None:
        """
        Args:
            troubles: what is known to be wrong with machines, by name.
            uses_new: whether machines that join are to be used.
        """
        self._uses_new = uses_new
        self._troubles = dict(troubles)
        self._living: Set[str] = frozenset()
        self._arrived: set[str] = set()
        """machines that have joined since replicas were looked at"""
        self._restoring = Restoring()
        self._headless_since_s: float | None = None
        self._has_left = False
        self._is_to_plan = False
        self._is_planning = False
        """a plan is being looked for, or made"""
        self._latest_failure: str | None = None

    def handle(self, event: MembershipEvent, now_s: float) -> list[MembershipEffect]:
        """Take in what has happened. Returns effects to carry out in order."""
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
                self._is_to_plan = failure is None  # there may be more machines than one replica could use
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
        """Tell at once that it is gone, and leave while there is time."""
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
        """Whether to try now: at once when a machine of a replica that is not whole is back, else now and then."""
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
        """Tell of trouble that stays once."""
        if failure is None or failure == self._latest_failure:
            return []
        self._latest_failure = failure
        return [ReportUnused(reason=failure)]
