"""What goes to the workers of a replica, in which order, and to whom."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Any

import pytest

from shoal.core.generation.steps.step_work import GuidedRow, StepWork
from shoal.core.speed.step_times import StepShape
from shoal.executor.traffic import StepTraffic
from shoal.protocol.codec import Message, decode
from shoal.protocol.language_messages import SampleRow, Sampling, Step, StepMasks
from tests.worker.test_life import make_step

Log = list[tuple[int | str, Message | None]]


class RecordingWorker:
    """Writes down what is sent to it."""

    def __init__(self, index: int, log: Log) -> None:
        self._index, self._log = index, log

    def send(self, frame: bytes) -> None:
        self._log.append((self._index, decode(frame)))


class RecordingGuide:
    """Writes down that it was asked."""

    def __init__(self, log: Log) -> None:
        self._log = log

    def allowed(self, outputs: Sequence[int], /) -> bytes:
        self._log.append(("asked", None))
        return bytes([len(outputs)])


def work_of(step: Step, guided: tuple[GuidedRow, ...] = ()) -> StepWork:
    return StepWork(step=step, shape=StepShape.of([]), num_samples=len(step.samples), guided=guided)


def sent(work: StepWork, log: Log, first_sampling: int) -> Log:
    workers: dict[int, Any] = {index: RecordingWorker(index, log) for index in range(4)}
    StepTraffic(first_sampling).send(work, workers)
    return log


@pytest.mark.parametrize("first_sampling", [0, 2, 3])
def test_the_workers_have_the_step_before_any_guide_is_asked(first_sampling: int) -> None:
    """Masks go to the last stage's workers alone."""
    log: Log = []
    rows = tuple(SampleRow(row=row, token_index=0, sampling=Sampling(), is_guided=True) for row in (1, 4))
    step = make_step(5, samples=rows)
    guide = RecordingGuide(log)
    guided = (GuidedRow(guide, array("i", (7, 7))), GuidedRow(guide, array("i")))
    sent(work_of(step, guided), log, first_sampling)
    masks = StepMasks(step_id=step.step_id, generation=step.generation, allowed=(b"\2", b"\0"))
    assert log[:4] == [(index, step) for index in range(4)]
    assert log[4:6] == [("asked", None)] * 2
    assert log[6:] == [(index, masks) for index in range(first_sampling, 4)]


def test_a_step_without_guided_rows_is_one_message() -> None:
    step: Step = make_step()
    assert sent(work_of(step), [], 0) == [(index, step) for index in range(4)]
