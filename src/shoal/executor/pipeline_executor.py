"""A replica as worker processes, for any kind of work: how they load, are wired, compute and fail."""

from __future__ import annotations

import select
from collections import Counter
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from contextlib import ExitStack
from typing import Any, Generic, TypeVar

from shoal.errors import ShoalError, WorkerLost
from shoal.executor.launcher import LoadMessage, Place, Wiring, WorkerLauncher
from shoal.executor.process.message_worker import MessageWorker
from shoal.executor.process.worker import close_all, first_cause, kill_all
from shoal.executor.traffic import Traffic, Trial
from shoal.protocol.codec import Message
from shoal.protocol.graph_messages import Envelope
from shoal.protocol.language_messages import ExpertLoad, StepResult
from shoal.protocol.worker_messages import Generation, LinkLost, Progress, StageLoaded, Wired

WorkT = TypeVar("WorkT")
ResultT = TypeVar("ResultT")


class PipelineExecutor(Generic[WorkT, ResultT]):
    """A pipeline of workers, with one or several shards in a stage. Implements `router.executor.StartingExecutor`."""

    def __init__(
        self,
        stages: Sequence[Sequence[Place]],
        launcher: WorkerLauncher,
        traffic: Traffic[WorkT, ResultT],
        generation: Generation,
        *,
        previous: PipelineExecutor[Any, Any] | None = None,
        on_progress: Callable[[int], None] | None = None,
        trial: Trial[WorkT, ResultT] | None = None,
    ) -> None:
        """Start one process per shard and tell each what to load. Accepts work once `poll_loading` returns True.

        Args:
            stages: the shards of each stage, in the order of their ranks.
            launcher: starts the workers.
            traffic: encodes the work and decodes the results.
            generation: the generation of the links; messages of earlier ones are rejected.
            previous: an executor whose living workers are reused if they have loaded the right part.
            on_progress: called with the number of segments that were just loaded.
            trial: work that the workers compute before they are ready; None: none.
        """
        self._stages = stages
        self._places = [place for places in stages for place in places]
        self._traffic = traffic
        self._generation = generation
        self._on_progress = on_progress or (lambda count: None)
        self._workers: dict[int, MessageWorker] = {}
        """By place."""
        self._launcher = launcher
        self._wiring: Wiring | None = None
        self._loading: set[int] = set()
        """Places of workers that have not loaded."""
        self._joining: set[int] = set()
        """Places of workers that have not reported being linked to their neighbors."""
        self._stage_row_s = [0.0] * len(stages)
        """Seconds for one row in each stage, measured by its workers."""
        self._trial = trial
        """None: it is over, or there is none."""
        self._trial_owed: Counter[int] = Counter()
        """By place, the number of pieces of the trial that the worker has not answered."""
        self._trial_results: list[ResultT] = []
        self._trial_row_s = 0.0
        self._failed_worker: int | None = None
        self.notes: dict[int, str] = {}
        """By place, a line for the user about how the worker computes, such as a fallback."""
        with ExitStack() as on_failure:
            on_failure.callback(self.close)
            for index, place in enumerate(self._places):
                if survivor := previous and previous.surrender(place.load):
                    self._workers[index] = survivor
                else:
                    self._workers[index] = launcher.start(place)
                    self._loading.add(index)
                self._joining.add(index)
            self._wire_if_loaded()
            on_failure.pop_all()

    @property
    def num_stages(self) -> int:
        """Number of stages of the pipeline."""
        return len(self._stages)

    @property
    def row_s(self) -> float:
        """See `StartingExecutor.row_s`: the time through all stages, known once they are loaded."""
        return sum(self._stage_row_s) + self._trial_row_s

    @property
    def failed_worker(self) -> int | None:
        """The worker that failed to load; None: none did."""
        return self._failed_worker

    @property
    def silent(self) -> int | None:
        """See `StartingExecutor.silent`."""
        missing = self._missing()
        return next(iter(missing)) if len(missing) == 1 else None

    @property
    def waiting_for(self) -> str:
        """See `StartingExecutor.waiting_for`."""
        return ", ".join(self._workers[index].name for index in sorted(self._missing()) if index in self._workers)

    def poll_loading(self) -> bool:
        """See `StartingExecutor.poll_loading`."""
        for index in self._workers:
            self._look(index)
        self._wire_if_loaded()
        self._try_if_joined()
        return not self._missing()

    def wait_until_loaded(self, silence_s: float) -> None:
        """Block until every worker is ready.

        Args:
            silence_s: a worker counts as lost after so many seconds without a sign of life.

        Raises:
            ModelLoadError, ConfigError, CapacityError: a worker could not load its part.
            WorkerLost: a worker died or hangs.
        """
        poll = select.poll()
        for worker in self._workers.values():
            poll.register(worker.fileno(), select.POLLIN)
        while not self.poll_loading():
            if not poll.poll(silence_s * 1e3):
                silent = self._workers[min(self._missing())].name
                raise WorkerLost(f"{silent} gave no sign of life for {silence_s:.0f} s while it was loading")

    def submit(self, work: WorkT) -> None:
        """Send a piece of work to every worker at once."""
        self._traffic.send(work, self._workers)

    def poll(self) -> list[ResultT]:
        """Return the results that have arrived. Raises the error of a worker that is gone."""
        results: list[ResultT] = []
        for index, worker in self._workers.items():
            try:
                while (message := worker.receive(0.0)) is not None:
                    results += self._results_in(index, message)
            except ShoalError as error:
                raise self._first_cause(index, error) from error
        return results

    def filenos(self) -> tuple[int, ...]:
        """One descriptor per worker."""
        return tuple(worker.fileno() for worker in self._workers.values())

    def worker_pids(self) -> tuple[int, ...]:
        """Process ids, stage by stage, rank by rank."""
        return tuple(worker.pid for worker in self._workers.values())

    def fence(self) -> None:
        """See `Executor.fence`."""
        self._cut()

    def surrender(self, load: LoadMessage) -> MessageWorker | None:
        """Hand over a living worker that has loaded this, or None; the caller owns it from then on."""
        for index, worker in self._workers.items():
            if self._places[index].load == load and index not in self._loading and worker.failure() is None:
                return self._workers.pop(index)
        return None

    def kill(self) -> bool:
        """End every worker without waiting. Returns whether all have ended."""
        self._cut()
        return kill_all(self._workers.values())

    def close(self) -> None:
        """End every worker."""
        self._cut()
        close_all(self._workers.values())

    def _look(self, index: int) -> None:
        """Read the messages of a loading worker. Raises its error if it is gone, even if it was ready before the
        others."""
        worker = self._workers[index]
        try:
            while (message := worker.receive(0.0)) is not None:
                self._take(index, message)
        except ShoalError as error:
            raise self._first_cause(index, error) from error

    def _take(self, index: int, message: Message) -> None:
        match message:
            case Progress():
                self._on_progress(1)
            case StageLoaded(note=note):
                self._loading.discard(index)
                if note is not None:
                    self.notes[index] = f"{self._workers[index].name}: {note}"
            case Wired() | StepResult() | Envelope() | LinkLost() | ExpertLoad() if (
                message.generation != self._generation
            ):
                """A reused worker may still send messages of its former group."""
            case Wired(row_s=row_s):
                stage = self._places[index].load.stage_index
                self._stage_row_s[stage] = max(self._stage_row_s[stage], row_s)
                self._joining.remove(index)
            case StepResult() | Envelope() if self._trial_owed[index]:
                self._take_trial(index, message)
            case LinkLost():
                raise WorkerLost(f"{self._workers[index].name}: {message.message}")
            case _:
                raise WorkerLost(f"{self._workers[index].name} sent {type(message).__name__} before it was ready")

    def _missing(self) -> AbstractSet[int]:
        """Places of workers that are not ready."""
        return self._loading or self._joining or self._trial_owed.keys()

    def _try_if_joined(self) -> None:
        if self._trial is None or self._loading or self._joining or self._trial_owed:
            return
        work = self._trial.work
        self._trial_owed.update({index: len(work) for index in self._workers})
        for piece in work:
            self.submit(piece)

    def _take_trial(self, index: int, message: StepResult | Envelope) -> None:
        """Note a worker's answer to a piece of the trial. Each worker answers each piece, in order."""
        assert self._trial is not None
        self._trial_results += self._results_in(index, message)
        self._trial_owed[index] -= 1
        self._trial_owed += Counter()  # drops workers that have answered everything
        if not self._trial_owed:
            self._trial_row_s = self._trial.row_s(self._trial_results)
            self._trial, self._trial_results = None, []

    def _results_in(self, index: int, message: Message) -> Sequence[ResultT]:
        results = self._traffic.take(index, message)
        if results is not None:
            return results
        name = self._workers[index].name
        if isinstance(message, LinkLost):
            raise WorkerLost(f"{name}: {message.message}")
        raise WorkerLost(f"{name} sent {type(message).__name__} while running")

    def _first_cause(self, index: int, error: ShoalError) -> ShoalError:
        self._failed_worker, cause = first_cause(self._workers, index, error)
        return cause

    def _wire_if_loaded(self) -> None:
        if not self._loading and self._wiring is None:
            self._wiring = self._launcher.wire(self._stages, self._by_stage(), self._generation)
            self._traffic.begin(self._wiring, self._generation)

    def _cut(self) -> None:
        if self._wiring is not None:
            self._wiring.cut()
            self._wiring = None

    def _by_stage(self) -> list[list[MessageWorker]]:
        rest = iter(self._workers.values())
        return [[next(rest) for _ in places] for places in self._stages]
