"""Machines that join, leave or return while a model is served: lost ones are restored to replicas, new ones are used.

Polling and measuring machines and planning take seconds, so they have a thread of their own (`step`); the results are
carried out in the engine's thread (`look`). The decisions are made in core/membership. New machines are used with
`--replan`, and only if the planner chose the split; a given one is kept.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, assert_never

from shoal.core.membership import (
    LEAVE_AFTER_S,
    ChangeEnded,
    ClusterMembership,
    FindPlan,
    Leave,
    MachinesSeen,
    MembershipEvent,
    PlanEnded,
    ReplicaSeen,
    ReplicasSeen,
    ReportHead,
    ReportJoined,
    ReportMachine,
    ReportUnused,
    Restore,
)
from shoal.core.plan.placement import WorkerPlacement
from shoal.core.recovery.replica_status import WorkerStates
from shoal.core.recovery.worker_life import Phase
from shoal.errors import ShoalError
from shoal.launch.running.growth import Growth
from shoal.launch.running.running_plan import RunningPlan
from shoal.machines.machines import Machines

if TYPE_CHECKING:
    from shoal.planner.choice.extend import ExtendedPlan  # imports all that searches

_logger = logging.getLogger("shoal.launch")

_EVERY_S = 5.0
"""Seconds between two polls of machines, each a question to Ray's head. Nothing waits for them."""
_CLOSE_TIMEOUT_S = 10.0


class ReplicaOnMachines(Protocol):
    """A replica of any kind of plan."""

    @property
    def shards(self) -> Sequence[WorkerPlacement]:
        """All workers."""
        ...


ReplicaT = TypeVar("ReplicaT", bound=ReplicaOnMachines)


class Joining(Generic[ReplicaT]):
    """Watches the machines of one served model, restores its replicas, and uses new machines."""

    def __init__(
        self,
        machines: Machines,
        running: RunningPlan[Any, ReplicaT, WorkerStates],
        growth: Growth[Any, ReplicaT] | None,
        *,
        wake: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare the watch, which `start` begins.

        Args:
            machines: the machines on which the model is served.
            running: the plan and its engine.
            growth: plans for new machines; None: these are not used.
            wake: makes the engine's thread call `look`. Thread-safe.
            clock: gives monotonic seconds.
        """
        self._machines, self._running, self._growth = machines, running, growth
        self._wake, self._clock = wake, clock
        self._membership = ClusterMembership(machines.troubles(), uses_new=growth is not None)
        self._lock = threading.Lock()
        """Protects the membership, to which both threads pass events."""
        self._leave: Callable[[str], None] | None = None
        """Called with the reason when this process should end."""
        self._is_to_look = False
        """Whether machines were polled since the engine's thread read the replicas."""
        self._proposed: ExtendedPlan[ReplicaT] | None = None
        """The change that was given to the engine's thread, until its outcome is known."""
        self._to_make: ExtendedPlan[ReplicaT] | None = None
        """The same change, until it is begun."""
        self._outcomes: SimpleQueue[ShoalError | None] = SimpleQueue()
        self._is_closing = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="shoal-joining", daemon=True)

    def start(self) -> None:
        """Start watching."""
        self._thread.start()

    def close(self) -> None:
        """Stop watching. Idempotent."""
        self._is_closing.set()
        self._machines.stop_waiting()
        if self._thread.is_alive():
            self._thread.join(_CLOSE_TIMEOUT_S)
        self._growth = None  # it holds the model's file open

    def on_headless(self, leave: Callable[[str], None]) -> None:
        """Register a function that is called, in the watching thread, when this process should end by itself."""
        self._leave = leave

    @property
    def trouble(self) -> str | None:
        """Why this process will end soon; None: it will not. Thread-safe."""
        return self._machines.headless()

    def step(self) -> None:
        """Poll the machines and plan; in the watching thread."""
        joined, failure = self._find_joined()
        self._take_outcome()
        self._tell(
            MachinesSeen(
                joined=joined,
                living=self._machines.living(),
                troubles=self._machines.troubles(),
                head_trouble=self._machines.headless(),
                failure=failure,
            )
        )
        self._is_to_look = True
        self._wake()

    def look(self) -> None:
        """Carry out decisions; to be called often in the engine's thread."""
        if self._is_to_look:
            self._is_to_look = False
            self._tell(ReplicasSeen(replicas=self._see_replicas()))
        if self._to_make is not None and not self._running.is_changing(self._to_make.extension.replica):
            made, self._to_make = self._to_make, None
            self._running.change(made.extension.replica, made.replica, self._outcomes.put)

    def _watch(self) -> None:
        while not self._is_closing.wait(_EVERY_S):
            self.step()

    def _find_joined(self) -> tuple[tuple[str, ...], str | None]:
        """Machines that have joined, and the reason if the poll failed."""
        try:
            return tuple(self._machines.find_joined()), None
        except ShoalError as error:
            return (), str(error)
        except Exception as error:  # the outermost call: machines are polled again after any error
            return (), f"{type(error).__name__}: {error}".partition("\n")[0]

    def _see_replicas(self) -> tuple[ReplicaSeen, ...]:
        stats = self._running.stats()
        return tuple(
            ReplicaSeen(
                machines=_machines_of(replica).keys(),
                is_whole=not stats.reduced[index] and stats.phases[index] is not Phase.GIVEN_UP,
                is_changing=self._running.is_changing(index),
            )
            for index, replica in enumerate(self._running.plan.replicas)
        )

    def _tell(self, event: MembershipEvent) -> None:
        """Pass an event to the membership, and carry out its effects; in either thread."""
        with self._lock:
            effects = self._membership.handle(event, self._clock())
        for effect in effects:
            match effect:
                case ReportJoined(machines=machines):
                    self._say(f"joined: {', '.join(machines)}")
                case ReportMachine(machine=machine, what=what):
                    self._say(f"machine {machine} {what}")
                case ReportHead(trouble=None):
                    self._say("Ray's head answers again")
                case ReportHead(trouble=trouble):
                    self._say(
                        f"{trouble}: if it is not back within {LEAVE_AFTER_S:.0f} s, this process finishes what is "
                        "open and ends, before Ray ends it"
                    )
                case ReportUnused(reason=reason):
                    self._say(f"machines that joined are not used: {reason}")
                case Leave(reason=reason):
                    if self._leave is not None:
                        self._leave(reason)
                case FindPlan():
                    self._find_plan()
                case Restore(replica=index):
                    self._restore(index)
                case _:
                    assert_never(effect)

    def _say(self, line: str) -> None:
        if not self._is_closing.is_set():
            _logger.info(line)

    def _find_plan(self) -> None:
        """Search for a plan with new machines, in the watching thread."""
        failure = None
        try:
            self._propose()
        except ShoalError as error:
            failure = str(error)
        except Exception as error:  # the outermost call, see `_find_joined`
            failure = f"{type(error).__name__}: {error}".partition("\n")[0]
        self._tell(PlanEnded(found=self._proposed is not None, failure=failure))

    def _propose(self) -> None:
        """Measure new machines, and propose a plan if one pays."""
        growth = self._growth
        found = None if growth is None else growth.find(self._machines.living())
        if found is None:
            return
        index, gain = found.extension.replica, found.extension.gain
        where = ", ".join(_machines_of(found.replica))
        is_new = index == len(self._running.plan.replicas)
        what = f"replica {index} is made on {where}" if is_new else f"replica {index} is cut anew over {where}"
        _logger.info(f"{what}, {gain:.0%} better expected")
        self._proposed = self._to_make = found
        self._wake()

    def _take_outcome(self) -> None:
        if self._proposed is None:
            return
        try:
            error = self._outcomes.get_nowait()
        except Empty:
            return
        made, self._proposed = self._proposed, None
        if error is None and self._growth is not None:
            self._growth.adopt(made)
        self._tell(ChangeEnded(failure=None if error is None else str(error)))

    def _restore(self, index: int) -> None:
        """Restore a replica, in the engine's thread."""
        replica = self._running.plan.replicas[index]
        self._say(f"replica {index} is given back its workers on {', '.join(_machines_of(replica))}")

        def done(error: ShoalError | None) -> None:
            if error is not None:
                self._say(f"replica {index} continues unchanged: {error}")

        self._running.change(index, replica, done)


def _machines_of(replica: ReplicaOnMachines) -> dict[str, None]:
    """The machines of a replica, in order and without duplicates."""
    return dict.fromkeys(shard.machine or "" for shard in replica.shards)
