"""What the time of a request went into, as an engine over fake replicas tells it."""

from __future__ import annotations

from shoal.core.sequences.request import RequestId
from shoal.router.story.request_traces import RequestPhase, RequestTrace
from tests.router.fakes import TURN_S, FakeExecutor, finish, make_request, open_engine
from tests.router.test_engine_recovery import FakeFactory, by_hand, restarting


def names(trace: RequestTrace) -> list[str]:
    return [phase.name for phase in trace.phases]


def assert_whole(trace: RequestTrace) -> None:
    """No time of a request is told twice or left out."""
    assert trace.finished is not None
    for before, after in zip(trace.phases, trace.phases[1:], strict=False):
        assert before.begin_s <= before.end_s == after.begin_s
    assert trace.phases[-1].end_s > 0


def test_a_request_waits_then_its_prompt_is_computed_and_then_its_tokens() -> None:
    ended: list[RequestTrace] = []
    with restarting((FakeExecutor(), FakeFactory())) as (engine, _):
        engine.trace(ended.append)
        engine.add(make_request("a", max_tokens=5))
        finish(engine)
    (trace,) = ended
    assert trace.request_id == RequestId("a")
    assert names(trace) == ["queue", "prefill", "decode"]
    assert [phase.num_steps for phase in trace.phases] == [0, 1, 4]
    assert [phase.replica for phase in trace.phases] == [None, 0, 0]
    assert_whole(trace)


def test_a_loss_and_what_is_computed_again_are_told() -> None:
    ended: list[RequestTrace] = []
    first, second = by_hand(), by_hand(is_loading=True)
    with restarting((first, FakeFactory(second))) as (engine, _):
        engine.trace(ended.append)
        engine.add(make_request("a", max_tokens=3))
        engine.turn(0)
        first.answer()
        engine.turn(TURN_S)
        first.lose()
        engine.turn(TURN_S)
        second.finish_loading()
        engine.turn(TURN_S)
        while engine.has_work:
            second.answer()
            engine.turn(TURN_S)
    (trace,) = ended
    assert names(trace) == ["queue", "prefill", "decode", "recovery", "replay", "decode"]
    assert [phase.num_steps for phase in trace.phases] == [0, 1, 0, 0, 1, 1]
    assert_whole(trace)


def test_a_request_that_is_cancelled_while_it_waits_ends_in_the_queue() -> None:
    ended: list[RequestTrace] = []
    with open_engine(FakeExecutor()) as engine:
        engine.trace(ended.append)
        engine.add(make_request("a"))
        engine.cancel(RequestId("a"))
        finish(engine)
    assert [phase.name for phase in ended[0].phases] == ["queue"]


def test_computing_is_summed_by_stage() -> None:
    from shoal.router.story.request_traces import _count_step

    phase = RequestPhase("decode", 0.0)
    _count_step(phase, (1.0, 2.0))
    _count_step(phase, (0.5, 0.25, 4.0))
    assert (phase.num_steps, phase.stage_compute_s) == (2, [1.5, 2.25, 4.0])
