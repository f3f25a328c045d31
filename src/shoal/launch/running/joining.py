"""Machines that join or leave while a model is served: replicas that lost them have them back, new ones are put to use.

Looking for machines, measuring them and planning take seconds, so they have a thread of their own (`step`); what comes
of it is carried out in the engine's thread (`look`). New machines are used under `--replan`, and only where the planner
chose the split: one that was said by hand is kept.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

from shoal.core.plan.language import ReplicaPlan
from shoal.core.recovery.restoring import Restoring
from shoal.core.recovery.worker_life import Phase
from shoal.errors import ShoalError
from shoal.launch.running.running_plan import RunningPlan
from shoal.machines.machines import Machines

if TYPE_CHECKING:
    from shoal.launch.language.auto_plan import AutoPlan, ExtendedPlan  # with all that measures and searches

_EVERY_S = 5.0
"""Between two looks for machines: one question to Ray's head. Nobody waits for them."""
_CLOSE_TIMEOUT_S = 10.0
_LEAVE_AFTER_S = 15.0
"""Without Ray's head. Ray ends whatever is connected to it after 60 s; a drain takes 25 s by default.
Source: Ray 2.60, `gcs_rpc_server_reconnect_timeout_s`."""


class Joining:
    """Of one served model."""

    def __init__(
        self,
        machines: Machines,
        running: RunningPlan,
        auto: AutoPlan | None,
        *,
        wake: Callable[[], None],
        report: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Do nothing yet.

        Args:
            machines: that the model is served on.
            running: the plan and its engine.
            auto: how the plan was chosen; None: new machines are not to be used.
            wake: makes the engine's thread look. Thread-safe.
            report: told what a person should know, a line each. Thread-safe.
            clock: monotonic seconds.
        """
        self._machines, self._running, self._auto = machines, running, auto
        self._wake, self._report, self._clock = wake, report, clock
        self._told_troubles = dict(machines.troubles())
        self._headless_since_s: float | None = None
        self._leave: Callable[[str], None] | None = None
        """told when this process is to end, and why"""
        self._is_to_restore = False
        """replicas are to be looked at"""
        self._arrivals: SimpleQueue[frozenset[str]] = SimpleQueue()
        """machines that have joined, for the engine's thread"""
        self._restoring = Restoring()
        self._present = () if auto is None else auto.choice.best.replicas
        self._placed = None if auto is None else auto.placed
        self._is_to_plan = False
        self._proposed: ExtendedPlan | None = None
        """what the engine's thread has been given, until its outcome is known"""
        self._to_make: ExtendedPlan | None = None
        """the same, until it is begun"""
        self._outcomes: SimpleQueue[ShoalError | None] = SimpleQueue()
        self._latest_trouble = ""
        self._is_closing = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="shoal-joining", daemon=True)

    def start(self) -> None:
        """Watch from now on."""
        self._thread.start()

    def close(self) -> None:
        """Watch no longer. Idempotent."""
        self._is_closing.set()
        self._machines.stop_waiting()
        if self._thread.is_alive():
            self._thread.join(_CLOSE_TIMEOUT_S)
        self._auto = None  # it holds the model's file open

    def on_headless(self, leave: Callable[[str], None]) -> None:
        """Call this, in the thread that watches, when this process should end by itself before its cluster ends it."""
        self._leave = leave

    @property
    def trouble(self) -> str | None:
        """Why this process will end soon; None: it will not. Thread-safe."""
        return self._machines.headless()

    def step(self) -> None:
        """Look for machines and think about them; in the thread that watches. Raises ShoalError."""
        try:
            joined = self._machines.find_joined()
        finally:
            self._note_head()
            self._note_machines()
        if joined:
            self._report(f"joined: {', '.join(joined)}")
            self._arrivals.put(frozenset(joined))
            self._is_to_plan = True
        self._is_to_restore = True
        self._wake()
        self._take_outcome()
        if self._is_to_plan and self._proposed is None:
            self._is_to_plan = False
            self._propose()

    def try_step(self) -> None:
        """The same; trouble that stays is reported once."""
        try:
            self.step()
        except ShoalError as error:
            if self._machines.headless() is None:
                self._note_trouble(str(error))
        except Exception as error:  # the outermost loop: machines are looked at again whatever has happened
            self._note_trouble(f"{type(error).__name__}: {error}".partition("\n")[0])
        else:
            self._latest_trouble = ""

    def look(self) -> None:
        """Carry out what is to be done; in the engine's thread, often."""
        if self._is_to_restore:
            self._is_to_restore = False
            self._restore()
        if self._to_make is not None and not self._running.is_changing(self._to_make.extension.replica):
            made, self._to_make = self._to_make, None
            self._running.change(made.extension.replica, made.replica, self._outcomes.put)

    def _watch(self) -> None:
        while not self._is_closing.wait(_EVERY_S):
            self.try_step()

    def _note_head(self) -> None:
        """Tell at once that the cluster's head is gone, and leave while there is time to finish what is open."""
        trouble = self._machines.headless()
        if trouble is None:
            if self._headless_since_s is not None:
                self._headless_since_s = None
                self._report("Ray's head answers again")
            return
        if self._headless_since_s is None:
            self._headless_since_s = self._clock()
            self._report(
                f"{trouble}: if it is not back within {_LEAVE_AFTER_S:.0f} s, this process finishes what is open and "
                "ends, before Ray ends it"
            )
        elif self._leave is not None and self._clock() - self._headless_since_s >= _LEAVE_AFTER_S:
            leave, self._leave = self._leave, None
            leave(trouble)

    def _note_machines(self) -> None:
        """Tell what is newly wrong with machines."""
        troubles = dict(self._machines.troubles())
        for name, what in troubles.items():
            if self._told_troubles.get(name) != what and not self._is_closing.is_set():
                self._report(f"machine {name} {what}")
        self._told_troubles = troubles

    def _note_trouble(self, what: str) -> None:
        if what != self._latest_trouble and not self._is_closing.is_set():
            self._latest_trouble = what
            self._report(f"machines that joined are not used: {what}")

    def _propose(self) -> None:
        """Measure what is new, and hand a plan over if one pays."""
        auto, known = self._auto, self._placed
        if auto is None or known is None:
            return
        self._placed = placed = auto.planner.measure_joined(known, lambda what: None)
        names, living = [one.name for one in placed.fleet.classes], self._machines.living()
        used_by = [{member for stage in one for member in stage.group.members} for one in self._present]
        used = set().union(*used_by)
        found = auto.planner.extend(
            self._present,
            placed,
            link_precision=self._running.plan.link_precision,
            idle=[index for index, name in enumerate(names) if name in living and index not in used],
            open_replicas=[
                index for index, own in enumerate(used_by) if all(names[member] in living for member in own)
            ],
        )
        if found is None:
            return
        index, gain = found.extension.replica, found.extension.gain
        where = ", ".join(_machines_of(found.replica))
        is_new = index == len(self._present)
        what = f"replica {index} is made on {where}" if is_new else f"replica {index} is cut anew over {where}"
        self._report(f"{what}, {gain:.0%} better expected")
        self._proposed = self._to_make = found
        self._wake()

    def _take_outcome(self) -> None:
        if self._proposed is None:
            return
        with suppress(Empty):
            error = self._outcomes.get_nowait()
            made, self._proposed = self._proposed, None
            if error is None:
                self._present = made.extension.candidate.replicas
                self._is_to_plan = True  # there may be more of them than one replica could use
            else:
                self._note_trouble(str(error))

    def _restore(self) -> None:
        """Replicas that had to do without a worker, or were given up, whose machines are all there again."""
        living, stats, now_s = self._machines.living(), self._running.stats(), self._clock()
        replicas = self._running.plan.replicas
        with suppress(Empty):
            while True:
                arrived = self._arrivals.get_nowait()
                for index, replica in enumerate(replicas):
                    if not arrived.isdisjoint(_machines_of(replica)):
                        self._restoring.note_back(index, now_s)
        for index, replica in enumerate(replicas):
            if not stats.reduced[index] and stats.phases[index] is not Phase.GIVEN_UP:
                self._restoring.note_whole(index)
                continue
            is_there = living.issuperset(_machines_of(replica))
            if self._restoring.is_due(index, now_s) and is_there and not self._running.is_changing(index):
                self._restoring.note_try(index, now_s)
                self._report(f"replica {index} is given back its workers on {', '.join(_machines_of(replica))}")
                self._running.change(index, replica, self._done_restoring(index))

    def _done_restoring(self, index: int) -> Callable[[ShoalError | None], None]:
        def done(error: ShoalError | None) -> None:
            if error is not None:
                self._report(f"replica {index} goes on as it is: {error}")

        return done


def _machines_of(replica: ReplicaPlan) -> dict[str, None]:
    """In order, each once."""
    return dict.fromkeys(shard.machine or "" for shard in replica.shards)
