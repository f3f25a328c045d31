"""A worker's life: load a stage, then step after step until the head says goodbye or is gone.

Steps come from the head in the same order to every worker of a replica, and hidden states come from the predecessor
in that order too, so one thread that takes one of each in turn needs no queue and no matching. All shards of a stage
end a step with the same result: the first tells the head, or each tells those of the next stage that it feeds.

A worker outlives its neighbours: when one is gone it says so, keeps what it has loaded, passes over the steps that are
still on their way and waits to be wired to others. It ends with the head, or with an error of its own.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from shoal.comm.groups.switch import measure_switch
from shoal.comm.groups.timed_group import TimedGroup
from shoal.comm.links.link import Link
from shoal.errors import RemoteProtocolError, ShoalError, WorkerLost
from shoal.model.decoder.forced_form import with_environment
from shoal.model.decoder.stage import Stage
from shoal.model.decoder.stage_config import StageConfig
from shoal.model.file_states import model_states, unchanged
from shoal.model.formats.open_weights import open_weights
from shoal.model.packed.kept_weights import kept_for
from shoal.protocol.codec import Activations, decode, encode, pack_activations, unpack_activations
from shoal.protocol.messages import (
    PROTOCOL_VERSION,
    Generation,
    LinkLost,
    LoadStage,
    Progress,
    Shutdown,
    StageFailed,
    StageLoaded,
    Step,
    StepResult,
    Wire,
    Wired,
)
from shoal.worker.links import Connector, StageLinks
from shoal.worker.row_time import measure_row
from shoal.worker.step_check import check_step

_IDLE_WAIT_S = 30.0
_SEND_TIMEOUT_S = 600.0
_JOIN_TIMEOUT_S = 60.0
"""How long measuring a group may take, whose ranks have all loaded."""
_ACTIVATION_TIMEOUT_S = 600.0
"""How long a predecessor may take for one step before it counts as lost. It is the head that decides which worker hangs
(core/recovery/patience); this only bounds the wait where the head itself does."""


class WorkerRuntime:
    """Obeys the head over `control`; `connector` lays the links to its neighbours."""

    def __init__(self, control: Link, connector: Connector) -> None:
        self._control = control
        self._connector = connector
        self._links: StageLinks | None = None
        """None: a neighbour is gone"""
        self._generation = Generation(0)
        self._group = TimedGroup()

    def run(self) -> None:
        """Until Shutdown. Raises WorkerLost when the head is gone, and what the worker itself fails with."""
        load = self._next_message()
        if not isinstance(load, LoadStage):
            raise RemoteProtocolError(f"expected LoadStage first, got {type(load).__name__}")
        try:
            self._serve(load, self._load(load))
        except (ShoalError, MemoryError, ValueError) as error:
            name = type(error).__name__
            self._send(StageFailed(generation=self._generation, error=name, message=str(error) or name))
            raise
        finally:
            self._close_links()

    def _load(self, load: LoadStage) -> Stage:
        if load.version != PROTOCOL_VERSION:
            raise RemoteProtocolError(f"head speaks protocol {load.version}, this worker {PROTOCOL_VERSION}")
        if load.cores:
            os.sched_setaffinity(0, load.cores)
        started_s = time.perf_counter()
        path = Path(load.model_path)
        with unchanged(load.files, lambda: model_states(path)):
            stage = Stage(
                open_weights(path),
                with_environment(StageConfig.of(load), os.environ),
                lambda done, total: self._send(Progress(done=done, total=total)),
                self._group if load.num_shards > 1 else None,
                kept_for(load),
            )
        self._send(StageLoaded(weight_bytes=stage.weight_bytes, load_s=time.perf_counter() - started_s))
        return stage

    def _serve(self, load: LoadStage, stage: Stage) -> None:
        while True:
            match message := self._next_message():
                case Step():
                    if message.generation == self._generation and self._links is not None:
                        check_step(message, max_tokens=load.max_step_tokens, vocab_size=stage.vocab_size)
                        self._step(load, stage, message, self._links)
                case Wire():
                    self._join(load, stage, message)
                case Shutdown():
                    return
                case _:
                    raise RemoteProtocolError(f"a running worker takes no {type(message).__name__}")

    def _join(self, load: LoadStage, stage: Stage, wire: Wire) -> None:
        """Take other neighbours, and tell the head when they have come."""
        self._close_links()
        self._generation = wire.generation
        try:
            links = self._links = self._connector.connect(wire, load)
            if links.group is not None:
                self._group.renew(links.group)
                measure_switch(links.group, timeout_s=_JOIN_TIMEOUT_S)
            row_s = measure_row(stage)
        except WorkerLost as error:
            self._lose_neighbour(error)
            return
        self._group.take_wait_s()
        self._send(Wired(generation=wire.generation, row_s=row_s))

    def _step(self, load: LoadStage, stage: Stage, step: Step, links: StageLinks) -> None:
        try:
            result = self._compute(load, stage, step, links)
        except (WorkerLost, RemoteProtocolError) as error:
            self._lose_neighbour(error)
            return
        if result is not None and load.rank == 0:
            self._send(result)

    def _compute(self, load: LoadStage, stage: Stage, step: Step, links: StageLinks) -> StepResult | None:
        """What a shard of the last stage has to tell; the others hand it on. Raises WorkerLost, RemoteProtocolError."""
        arrived = _receive_activations(links.upstream, step, stage.decoder.hidden_size)
        started_s = time.perf_counter()
        result = stage.process(step, arrived.x_TD if arrived else None)
        compute_s = (*(arrived.compute_s if arrived else ()), time.perf_counter() - started_s)
        wait_s = (*(arrived.wait_s if arrived else ()), self._group.take_wait_s())
        ids = {"step_id": step.step_id, "generation": step.generation}
        if isinstance(result, tuple):
            return StepResult(**ids, tokens=result, compute_s=compute_s, wait_s=wait_s)
        activations = Activations(**ids, x_TD=result, compute_s=compute_s, wait_s=wait_s)
        parts = pack_activations(activations, load.link_precision)
        for link in links.downstream:
            link.send(parts, timeout_s=_SEND_TIMEOUT_S)
        return None

    def _lose_neighbour(self, error: ShoalError) -> None:
        """It is gone, or cannot be understood, which is as bad. Those that wait for this worker learn of it, and the
        head does."""
        self._close_links()
        self._send(LinkLost(generation=self._generation, message=str(error)))

    def _close_links(self) -> None:
        if self._links is not None:
            self._links.close()
            self._links = None

    def _next_message(self) -> object:
        while (frame := self._control.receive(timeout_s=_IDLE_WAIT_S)) is None:
            pass
        return decode(frame)

    def _send(self, message: StageLoaded | StageFailed | Progress | StepResult | Wired | LinkLost) -> None:
        self._control.send([encode(message)], timeout_s=_SEND_TIMEOUT_S)


def _receive_activations(upstream: Link | None, step: Step, hidden_size: int) -> Activations | None:
    """The hidden states of this very step, None in the first stage."""
    if upstream is None:
        return None
    frame = upstream.receive(timeout_s=_ACTIVATION_TIMEOUT_S)
    if frame is None:
        raise WorkerLost(f"no hidden states from the previous stage within {_ACTIVATION_TIMEOUT_S:.0f} s")
    activations = unpack_activations(frame, shape=(step.num_tokens, hidden_size))
    if (activations.step_id, activations.generation) != (step.step_id, step.generation):
        raise RemoteProtocolError(f"hidden states of step {activations.step_id} came for step {step.step_id}")
    return activations
