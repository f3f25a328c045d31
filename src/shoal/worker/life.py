"""A worker's life, whatever it computes: load a part of the model, then work until the head ends it or is gone.

The head sends work to all workers of a replica in the same order, and neighbors pass on results in that order, too. So
one thread that takes one of each in turn needs neither a queue nor matching.

A worker survives the loss of its neighbors: it reports the loss, keeps what it has loaded, discards work that is still
on its way, and waits to be wired to others. It ends with the head, or with an error of its own.
"""

from __future__ import annotations

import os
import time
from typing import assert_never

from shoal.comm.links.link import Link
from shoal.errors import RemoteProtocolError, ShoalError, WorkerLost
from shoal.protocol.codec import WorkerMessage, encode
from shoal.protocol.graph_messages import Envelope, LoadGraph
from shoal.protocol.language_messages import ExpertLoad, LoadStage, Step, StepMasks, StepResult
from shoal.protocol.worker_messages import (
    PROTOCOL_VERSION,
    Generation,
    LinkLost,
    Progress,
    Shutdown,
    StageFailed,
    StageLoaded,
    Wire,
    Wired,
)
from shoal.worker.inbox import Inbox
from shoal.worker.links import Connector
from shoal.worker.memory_nodes import prefer_near_memory
from shoal.worker.runner import OnProgress, Runner, Work

_SEND_TIMEOUT_S = 600.0


class WorkerLife:
    """Obeys the head over `control`; `connector` creates the links to neighbors."""

    def __init__(self, control: Link, connector: Connector) -> None:
        self._control = control
        self._inbox = Inbox(control)
        self._connector = connector
        self._runner: Runner | None = None
        self._is_wired = False
        self._generation = Generation(0)

    def run(self) -> None:
        """Work until Shutdown. Raises WorkerLost if the head is gone, and the worker's own errors."""
        load = self._inbox.take()
        if not isinstance(load, LoadStage | LoadGraph):
            raise RemoteProtocolError(f"expected to be told what to load first, got {type(load).__name__}")
        try:
            self._serve(self._load(load))
        except Exception as error:  # the outermost loop: the head must hear of any error
            name = type(error).__name__
            self._send(StageFailed(generation=self._generation, error=name, message=str(error) or name))
            raise
        finally:
            self._leave()
            self._runner = None

    def _load(self, load: LoadStage | LoadGraph) -> Runner:
        if load.version != PROTOCOL_VERSION:
            raise RemoteProtocolError(f"head speaks protocol {load.version}, this worker {PROTOCOL_VERSION}")
        if load.cores:
            os.sched_setaffinity(0, load.cores)
            prefer_near_memory(load.cores)
        started_s = time.perf_counter()
        runner = self._runner = _make_runner(load, self._control, self._inbox, self._note)
        load_s = time.perf_counter() - started_s
        self._send(StageLoaded(weight_bytes=runner.weight_bytes, load_s=load_s, note=runner.note))
        return runner

    def _serve(self, runner: Runner) -> None:
        while True:
            match message := self._inbox.take():
                case Step() | Envelope():
                    if self._is_wired and message.generation == self._generation:
                        self._work(runner, message)
                case StepMasks():
                    """It belongs to a step that was passed over, or given up."""
                case Wire():
                    self._join(runner, message)
                case Shutdown():
                    return
                case (
                    LoadStage()
                    | LoadGraph()
                    | StageLoaded()
                    | StageFailed()
                    | Progress()
                    | StepResult()
                    | ExpertLoad()
                    | Wired()
                    | LinkLost()
                ):
                    raise RemoteProtocolError(f"a running worker takes no {type(message).__name__}")
                case _:
                    assert_never(message)

    def _join(self, runner: Runner, wire: Wire) -> None:
        """Connect to other neighbors, and tell the head when they are connected."""
        self._leave()
        self._generation = wire.generation
        try:
            row_s = runner.join(wire, self._connector)
        except WorkerLost as error:
            self._lose_neighbor(error)
            return
        self._is_wired = True
        self._send(Wired(generation=wire.generation, row_s=row_s))

    def _work(self, runner: Runner, work: Work) -> None:
        runner.check(work)
        try:
            runner.run(work)
        except (WorkerLost, RemoteProtocolError) as error:
            self._lose_neighbor(error)

    def _lose_neighbor(self, error: ShoalError) -> None:
        """A neighbor is gone, or has sent something malformed, which counts as the same. Workers that wait for this one
        learn of it, and so does the head."""
        self._leave()
        self._send(LinkLost(generation=self._generation, message=str(error)))

    def _leave(self) -> None:
        self._is_wired = False
        if self._runner is not None:
            self._runner.leave()

    def _note(self, done: int, total: int) -> None:
        self._send(Progress(done=done, total=total))

    def _send(self, message: WorkerMessage) -> None:
        self._control.send([encode(message)], timeout_s=_SEND_TIMEOUT_S)


def _make_runner(load: LoadStage | LoadGraph, control: Link, inbox: Inbox, on_progress: OnProgress) -> Runner:
    """Create the runner. Each branch imports what it computes with, so that a decoder's worker needs no ONNX
    Runtime."""
    match load:
        case LoadStage():
            from shoal.worker.language.decoder_runner import DecoderRunner

            return DecoderRunner(load, control, inbox, on_progress)
        case LoadGraph():
            from shoal.worker.graph_runner import GraphRunner

            return GraphRunner(load, control, on_progress)
        case _:
            assert_never(load)
