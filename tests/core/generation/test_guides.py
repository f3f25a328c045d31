"""Guided requests: for every sampled row there is what may be drawn, whatever happens to the request before."""

from __future__ import annotations

from collections.abc import Sequence

from shoal.core.generation.events import RequestAdded, SendStep, StepCompleted, WorkersLost, WorkersReady
from shoal.core.generation.scheduler import Scheduler
from shoal.protocol.language_messages import StepResult
from tests.core.generation.scheduler_driver import Driver, make_config, make_request


class CountingGuide:
    """Allows one token: as many as there are outputs."""

    def allowed(self, outputs: Sequence[int], /) -> bytes:
        assert list(outputs) == [100 + place for place in range(len(outputs))], "the driver draws these"
        return bytes([0] * len(outputs) + [1])


def test_every_output_has_its_own_mask() -> None:
    driver = Driver(make_config())
    driver.add(make_request("a", max_tokens=3, guide=CountingGuide()), make_request("b", max_tokens=1))
    driver.finish()
    assert driver.masks == [(0, b"\1"), (1, b"\0\1"), (2, b"\0\0\1")]
    assert [[sample.is_guided for sample in step.samples] for step in driver.sent] == [[True, False], [True], [True]]


def test_no_guide_is_asked_before_its_step_is_sent() -> None:
    """The workers compute meanwhile; a prompt whose last row is not in the step asks for nothing."""

    class Unasked:
        def allowed(self, outputs: Sequence[int], /) -> bytes:
            raise AssertionError("the scheduler itself needs no mask")

    scheduler = Scheduler(make_config(prefill_chunk_tokens=4))
    request = make_request("a", prompt=6, guide=Unasked())
    (first,) = scheduler.handle([RequestAdded(request=request)], 0.0)
    assert isinstance(first, SendStep)
    assert not first.work.guided
    answer = StepResult(step_id=first.step.step_id, generation=first.step.generation, tokens=())
    (second,) = scheduler.handle([StepCompleted(result=answer)], 0.0)
    assert isinstance(second, SendStep)
    assert [list(row.outputs) for row in second.work.guided] == [[]]


def test_a_request_that_is_computed_again_goes_on_with_the_next_mask() -> None:
    driver = Driver(make_config())
    driver.add(make_request("a", max_tokens=4, guide=CountingGuide()))
    driver.answer()
    driver.answer()
    driver.in_flight.clear()
    driver.tell(WorkersLost(reason="killed"))
    driver.tell(WorkersReady())
    driver.finish()
    assert driver.masks == [(index, bytes([0] * index + [1])) for index in (0, 1, 2, 2, 3)]
