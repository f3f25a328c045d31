"""A worker's life: load a stage, then step after step until the head says goodbye or is gone.

Steps come from the head in the same order to every worker of a replica, and hidden states come from the predecessor
in that order too, so one thread that takes one of each in turn needs no queue and no matching. All shards of a stage
end a step with the same result: the first tells the head, or each tells those of the next stage that it feeds.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

from shoal.comm.link import Link
from shoal.comm.shm_group import SharedMemoryGroup
from shoal.comm.switch import measure_switch
from shoal.comm.timed_group import TimedGroup
from shoal.errors import RemoteProtocolError, ShoalError, WorkerLost
from shoal.model.decoder.stage import Stage, StageConfig
from shoal.model.formats.open_weights import open_weights
from shoal.protocol.codec import Activations, decode, encode, pack_activations, unpack_activations
from shoal.protocol.messages import (
    PROTOCOL_VERSION,
    LoadStage,
    Progress,
    Shutdown,
    StageFailed,
    StageLoaded,
    Step,
    StepResult,
)
from shoal.worker.row_time import measure_row

_IDLE_WAIT_S = 30.0
_SEND_TIMEOUT_S = 600.0
_LOAD_TIMEOUT_S = 600.0
"""How much longer than this shard another may take to load."""
_ACTIVATION_TIMEOUT_S = 600.0
"""How long a predecessor may take for one step before it counts as lost. It is the head that decides which worker hangs
(core/recovery/patience); this only bounds the wait where the head itself does."""


class WorkerRuntime:
    """Obeys the head over `control`; takes hidden states from `upstream` and hands its own to `downstream`.

    `group_fd`: memory of the group of shards that it belongs to, None where it is a whole stage.
    """

    def __init__(
        self, control: Link, upstream: Link | None, downstream: Sequence[Link], group_fd: int | None = None
    ) -> None:
        self._control = control
        self._upstream = upstream
        self._downstream = downstream
        self._group_fd = group_fd
        self._timed_group: TimedGroup | None = None
        """the group as the stage sees it"""
        self._answers = True
        """whether results go to the head from here: of the last stage's shards, from the first"""

    def run(self) -> None:
        """Until Shutdown. Raises WorkerLost when the head or the predecessor is gone."""
        load = self._next_message()
        if not isinstance(load, LoadStage):
            raise RemoteProtocolError(f"expected LoadStage first, got {type(load).__name__}")
        group = self._join_group(load)
        try:
            stage = self._load(load, group)
            self._serve(stage)
        except (ShoalError, MemoryError, ValueError) as error:
            name = type(error).__name__
            self._send(StageFailed(generation=load.generation, error=name, message=str(error) or name))
            raise
        finally:
            if group is not None:
                group.close()

    def _load(self, load: LoadStage, group: SharedMemoryGroup | None) -> Stage:
        if load.version != PROTOCOL_VERSION:
            raise RemoteProtocolError(f"head speaks protocol {load.version}, this worker {PROTOCOL_VERSION}")
        if load.cores:
            os.sched_setaffinity(0, load.cores)
        started_s = time.perf_counter()
        config = StageConfig.of(load)
        source = open_weights(Path(load.model_path))
        self._timed_group = TimedGroup(group) if group else None
        stage = Stage(
            source, config, lambda done, total: self._send(Progress(done=done, total=total)), self._timed_group
        )
        if group is not None:
            measure_switch(group, timeout_s=_LOAD_TIMEOUT_S)
        row_s = measure_row(stage)
        if self._timed_group is not None:
            self._timed_group.take_wait_s()
        load_s = time.perf_counter() - started_s
        loaded = StageLoaded(generation=load.generation, weight_bytes=stage.weight_bytes, load_s=load_s, row_s=row_s)
        self._send(loaded)
        return stage

    def _join_group(self, load: LoadStage) -> SharedMemoryGroup | None:
        if load.num_shards == 1:
            return None
        self._answers = load.rank == 0
        if self._group_fd is None:
            raise RemoteProtocolError("one of several shards was started without its group")
        return SharedMemoryGroup(
            self._group_fd,
            rank=load.rank,
            size=load.num_shards,
            generation=load.generation,
            stays_awake=load.cpu_quota is None,
        )

    def _serve(self, stage: Stage) -> None:
        while True:
            match message := self._next_message():
                case Step():
                    self._step(stage, message)
                case Shutdown():
                    return
                case _:
                    raise RemoteProtocolError(f"a running worker takes no {type(message).__name__}")

    def _step(self, stage: Stage, step: Step) -> None:
        arrived = self._receive_activations(step, stage.decoder.hidden_size)
        started_s = time.perf_counter()
        result = stage.process(step, arrived.x_TD if arrived else None)
        compute_s = (*(arrived.compute_s if arrived else ()), time.perf_counter() - started_s)
        wait_s = (*(arrived.wait_s if arrived else ()), self._timed_group.take_wait_s() if self._timed_group else 0.0)
        ids = {"step_id": step.step_id, "generation": step.generation}
        if isinstance(result, tuple):
            if self._answers:
                self._send(StepResult(**ids, tokens=result, compute_s=compute_s, wait_s=wait_s))
        else:
            parts = pack_activations(Activations(**ids, x_TD=result, compute_s=compute_s, wait_s=wait_s))
            for link in self._downstream:
                link.send(parts, timeout_s=_SEND_TIMEOUT_S)

    def _receive_activations(self, step: Step, hidden_size: int) -> Activations | None:
        """The hidden states of this very step, None in the first stage."""
        if self._upstream is None:
            return None
        frame = self._upstream.receive(timeout_s=_ACTIVATION_TIMEOUT_S)
        if frame is None:
            raise WorkerLost(f"no hidden states from the previous stage within {_ACTIVATION_TIMEOUT_S:.0f} s")
        activations = unpack_activations(frame)
        if (activations.step_id, activations.generation) != (step.step_id, step.generation):
            raise RemoteProtocolError(f"hidden states of step {activations.step_id} came for step {step.step_id}")
        if activations.x_TD.shape != (step.num_tokens, hidden_size):
            raise RemoteProtocolError(
                f"hidden states of shape {activations.x_TD.shape} came, not {(step.num_tokens, hidden_size)}"
            )
        return activations

    def _next_message(self) -> object:
        while (frame := self._control.receive(timeout_s=_IDLE_WAIT_S)) is None:
            pass
        return decode(frame)

    def _send(self, message: StageLoaded | StageFailed | Progress | StepResult) -> None:
        self._control.send([encode(message)], timeout_s=_SEND_TIMEOUT_S)
