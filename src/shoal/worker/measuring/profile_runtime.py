"""A measuring process's life: one request after another until the head ends it or is gone."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from shoal.comm.groups.shm_group import SharedMemoryGroup
from shoal.comm.groups.switch import measure_switch
from shoal.comm.links.link import Link
from shoal.errors import RemoteProtocolError, ShoalError
from shoal.model.decoder.forced_form import ForcedForm
from shoal.model.decoder.stage import Stage
from shoal.model.formats.open_weights import open_weights
from shoal.model.runtime_sessions import share_pool
from shoal.protocol.profile_messages import (
    PAIR,
    PROFILE_PROTOCOL_VERSION,
    Answer,
    Done,
    DropPart,
    Echo,
    LoadPart,
    Pause,
    Request,
    StartProfile,
    TimeCopy,
    TimeFrames,
    TimeLimits,
    TimeProduct,
    Times,
    TimeStep,
    TimeSums,
    decode_request,
    encode_profile,
)
from shoal.protocol.worker_messages import Generation, Shutdown, StageFailed
from shoal.worker.measuring.profile_rates import copy, product, receive_frames, repeat, send_frames, sums
from shoal.worker.measuring.profile_steps import make_step

_IDLE_WAIT_S = 30.0
_SEND_TIMEOUT_S = 30.0
_SWITCH_TIMEOUT_S = 60.0


class ProfileRuntime:
    """Obeys the head over `control`. Has links from the previous and to the next process, by kind, and a group."""

    def __init__(
        self, control: Link, incoming: Mapping[str, Link], outgoing: Mapping[str, Link], group_fd: int | None
    ) -> None:
        """Measures nothing yet.

        Args:
            control: to the head.
            incoming: from the previous process, by kind (`ring`, `tcp`).
            outgoing: to the next process, by kind.
            group_fd: memory of the group of the first two processes, for these only.
        """
        self._control = control
        self._incoming = incoming
        self._outgoing = outgoing
        self._group_fd = group_fd
        self._group: SharedMemoryGroup | None = None
        self._is_group_ready = False
        self._threads = 1
        self._stages: dict[str, tuple[LoadPart, Stage]] = {}
        self._last_product: tuple[TimeProduct, Callable[[], object]] | None = None
        self._pending: memoryview | None = None
        """The message that ended a continuing measurement."""

    def run(self) -> None:
        """Serve requests until Shutdown. Raises WorkerLost if the head is gone, or another error, which is reported to
        the head."""
        try:
            while not isinstance(request := self._next(), Shutdown):
                if not isinstance(request, Pause):
                    self._answer(request)
        except (ShoalError, MemoryError, ValueError) as error:
            name = type(error).__name__
            self._send(StageFailed(generation=Generation(0), error=name, message=str(error) or name))
            raise
        finally:
            if self._group is not None:
                self._group.close()

    def _answer(self, request: Request) -> None:
        match request:
            case StartProfile():
                self._start(request)
                self._send(Done())
            case LoadPart():
                self._stages[request.name] = request, self._load(request)
                self._send(Done())
            case DropPart():
                del self._stages[request.name]
                self._send(Done())
            case TimeStep():
                self._time(self._step(request), request.limits)
            case TimeProduct():
                self._time(self._product(request), request.limits)
            case TimeCopy():
                self._time(copy(request), request.limits)
            case TimeFrames():
                self._send(Times(seconds=self._frames(request)))
            case TimeSums():
                self._send(Times(seconds=tuple(sums(request, self._joined_group()))))
            case Echo():
                self._send(request)
            case _:
                raise RemoteProtocolError(f"a measuring process takes no {type(request).__name__}")

    def _start(self, start: StartProfile) -> None:
        if start.version != PROFILE_PROTOCOL_VERSION:
            raise RemoteProtocolError(f"head speaks version {start.version}, this process {PROFILE_PROTOCOL_VERSION}")
        if start.cores:
            os.sched_setaffinity(0, start.cores)
        self._threads = start.threads
        share_pool(start.threads)
        if self._group_fd is not None:
            self._group = SharedMemoryGroup(self._group_fd, rank=start.rank, size=PAIR, generation=0)

    def _load(self, load: LoadPart) -> Stage:
        source, form = open_weights(Path(load.model_path)), ForcedForm.of(os.environ)
        stage = Stage(source, load.stage, form=replace(form, device=load.device))
        stage.touch_kv()
        return stage

    def _step(self, asked: TimeStep) -> Callable[[], object]:
        load, stage = self._stages[asked.part]
        decoder = stage.decoder
        step = make_step(
            asked, block_size=load.stage.block_size, vocab_size=decoder.vocab_size, encoder=decoder.encoder
        )
        if stage.is_first:
            return lambda: stage.process(step)
        shape = (step.num_tokens, decoder.carried_width)
        x_TD = np.random.default_rng(0).standard_normal(shape, np.float32)
        return lambda: stage.process(step, x_TD)

    def _product(self, asked: TimeProduct) -> Callable[[], object]:
        """The last product again, or a new one: creating a large matrix takes longer than multiplying it."""
        if self._last_product is None or self._last_product[0] != asked:
            self._last_product = None  # frees its memory before the next one is created
            self._last_product = asked, product(asked, self._threads, os.environ)
        return self._last_product[1]

    def _time(self, run: Callable[[], object], limits: TimeLimits) -> None:
        self._send(Times(seconds=repeat(run, limits)))
        while limits.keep_going and self._pending is None:
            run()
            self._pending = self._control.receive(timeout_s=0.0)

    def _frames(self, asked: TimeFrames) -> tuple[float, ...]:
        if not asked.is_sender:
            return tuple(receive_frames(asked, self._incoming[asked.link]))
        send_frames(asked, self._outgoing[asked.link])
        return ()

    def _joined_group(self) -> SharedMemoryGroup:
        if self._group is None:
            raise RemoteProtocolError("one process alone has nobody to sum with")
        if not self._is_group_ready:
            measure_switch(self._group, timeout_s=_SWITCH_TIMEOUT_S)
            self._is_group_ready = True
        return self._group

    def _next(self) -> Request:
        frame, self._pending = self._pending, None
        while frame is None:
            frame = self._control.receive(timeout_s=_IDLE_WAIT_S)
        return decode_request(frame)

    def _send(self, message: Answer) -> None:
        self._control.send([encode_profile(message)], timeout_s=_SEND_TIMEOUT_S)
