"""The engine over replicas that are fakes: batches, waiting, errors, losses, descriptors."""

import asyncio
import select
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager

import numpy as np
import pytest

from shoal.core.batching.config import BatchingConfig
from shoal.core.batching.events import BatchLimits
from shoal.core.plan.graph import BatchAxes
from shoal.core.recovery.worker_life import Phase
from shoal.errors import (
    DeadlineExceeded,
    InvalidRequest,
    QueueFull,
    RequestAborted,
    ShoalError,
    WorkerCrashed,
    WorkerLost,
)
from shoal.router.batch_engine import BatchEngine, InferenceRequest, InferenceResult
from tests.router.graph_fakes import AXES, BAD, FakeGraphExecutor, make_inputs

TURN_S = 60.0
"""How long a turn may wait in these tests; reached only where something is broken."""


class HandClock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@contextmanager
def open_engine(
    *executors: FakeGraphExecutor, axes: BatchAxes = AXES, clock: HandClock | None = None, **config: float
) -> Iterator[BatchEngine]:
    engine = BatchEngine(executors, axes, BatchingConfig(**config), clock or HandClock())
    try:
        yield engine
    finally:
        engine.close()


def add(engine: BatchEngine, name: str, *values: float, s: float = 0.0, timeout_s: float | None = None) -> None:
    engine.add(InferenceRequest(request_id=name, inputs=make_inputs(*values, s=s), timeout_s=timeout_s))


def finish(engine: BatchEngine) -> dict[str, InferenceResult]:
    """Turns until nothing is left to do; each request ends once."""
    results: list[InferenceResult] = []
    while engine.has_work:
        results += engine.turn(TURN_S)
    assert len(results) == len({result.request_id for result in results})
    return {result.request_id: result for result in results}


def rows_of(result: InferenceResult) -> list[float]:
    assert result.error is None
    return result.outputs["y"][:, 0].tolist()


def by_hand(num_stages: int = 1) -> FakeGraphExecutor:
    return FakeGraphExecutor(answers_by_hand=True, num_stages=num_stages)


def test_requests_added_together_run_together_and_get_their_own_rows() -> None:
    executor = FakeGraphExecutor()
    with open_engine(executor) as engine:
        add(engine, "a", 1)
        add(engine, "b", 2, 3)
        assert executor.sizes == []
        results = finish(engine)
    assert executor.sizes == [3]
    assert (rows_of(results["a"]), rows_of(results["b"])) == ([2], [4, 6])
    assert results["a"].batch_rows == 3
    assert results["a"].compute_s == 0.5


def test_different_shared_inputs_do_not_mix() -> None:
    executor = FakeGraphExecutor()
    with open_engine(executor) as engine:
        add(engine, "a", 1, s=10)
        add(engine, "b", 1, s=20)
        results = finish(engine)
    assert executor.sizes == [1, 1]
    assert (rows_of(results["a"]), rows_of(results["b"])) == ([12], [22])


def test_a_large_request_is_put_together_again_in_order() -> None:
    first, second = by_hand(), by_hand()
    values = [float(value) for value in range(20)]
    with open_engine(first, second, max_batch=4) as engine:
        add(engine, "a", *values)
        results: list[InferenceResult] = []
        while engine.has_work:
            for executor in (second, first):
                while executor.waiting:
                    executor.answer()
            results += engine.turn(0)
    assert rows_of(results[0]) == [2 * value for value in values]
    assert len(first.sizes) + len(second.sizes) == 5
    assert second.sizes
    assert results[0].compute_s == 5 * 0.5


def test_fixed_rows_are_padded_and_the_answer_cut() -> None:
    executor = FakeGraphExecutor()
    axes = BatchAxes(inputs=AXES.inputs, outputs=AXES.outputs, rows=4)
    with open_engine(executor, axes=axes) as engine:
        add(engine, "a", 1, 2, 3, 4, 5, 6)
        results = finish(engine)
        stats = engine.stats()
    assert rows_of(results["a"]) == [2, 4, 6, 8, 10, 12]
    assert executor.sizes == [4, 4]
    assert stats.batch_sizes == {4: 1, 2: 1}


def test_without_rows_a_request_is_a_batch() -> None:
    executor = FakeGraphExecutor()
    axes = BatchAxes(inputs={"x": None, "s": None}, outputs={"y": None}, rows=None)
    with open_engine(executor, axes=axes) as engine:
        add(engine, "a", 1, 2)
        add(engine, "b", 3)
        results = finish(engine)
    assert executor.sizes == [2, 1]
    assert rows_of(results["a"]) == [2, 4]


def test_the_guilty_request_fails_alone() -> None:
    with open_engine(FakeGraphExecutor()) as engine:
        for name, value in (("a", 1.0), ("b", BAD), ("c", 3.0)):
            add(engine, name, value)
        results = finish(engine)
        stats = engine.stats()
    assert (rows_of(results["a"]), rows_of(results["c"])) == ([2], [6])
    assert isinstance(results["b"].error, InvalidRequest)
    assert str(results["b"].error) == "x must not be negative"
    assert results["b"].outputs == {}
    assert (stats.num_succeeded, stats.num_failed, stats.num_rows, stats.num_batches) == (2, 1, 2, 2)


def test_outputs_that_cannot_be_cut_are_computed_request_by_request() -> None:
    class Summing(FakeGraphExecutor):
        def poll(self):
            results = super().poll()
            for result in results:
                result.outputs["y"] = result.outputs["y"].sum(keepdims=True)[0]
            return results

    with open_engine(Summing()) as engine:
        add(engine, "a", 1, 2)
        add(engine, "b", 3)
        results = finish(engine)
    assert (results["a"].outputs["y"].tolist(), results["b"].outputs["y"].tolist()) == ([6], [6])


def test_add_refuses_what_has_no_rows_and_ids_in_use() -> None:
    with open_engine(FakeGraphExecutor()) as engine:
        with pytest.raises(InvalidRequest, match="0 rows"):
            add(engine, "a")
        add(engine, "a", 1)
        with pytest.raises(InvalidRequest, match="'a' is in use"):
            add(engine, "a", 1)
        assert list(finish(engine)) == ["a"]


def test_add_raises_what_can_be_known_at_once() -> None:
    executor, clock = by_hand(), HandClock()
    with open_engine(executor, clock=clock, max_queue_rows=2) as engine:
        add(engine, "warm", 1)
        engine.turn(0)
        clock.now_s += 1.0
        executor.answer()
        engine.turn(0)
        add(engine, "a", 1)
        engine.turn(0)
        with pytest.raises(DeadlineExceeded) as late:
            add(engine, "b", 1, timeout_s=1.5)
        assert late.value.retry_after_s == pytest.approx(0.5)
        add(engine, "c", 1, 2, timeout_s=3.5)
        with pytest.raises(QueueFull):
            add(engine, "d", 1)
        assert engine.stats().num_failed == 2
        assert (engine.stats().queued_rows, engine.stats().in_flight_rows) == (2, 1)


def test_a_request_expires_in_the_queue_when_the_timer_says() -> None:
    executor, clock = by_hand(), HandClock()
    with open_engine(executor, clock=clock) as engine:
        add(engine, "a", 1)
        engine.turn(0)
        assert engine.next_wake_s() == 100.0 + 120.0, "nothing is known of its speed"
        add(engine, "b", 1, timeout_s=2.0)
        assert engine.next_wake_s() == 100.0
        assert engine.turn(0) == []
        assert engine.next_wake_s() == 102.0
        clock.now_s = 102.0
        [result] = engine.turn(0)
    assert isinstance(result.error, DeadlineExceeded)
    assert result.queue_s == 2.0


def test_a_cancelled_request_ends_with_that_and_its_late_rows_go_nowhere() -> None:
    executor = by_hand()
    with open_engine(executor) as engine:
        add(engine, "a", 1)
        engine.turn(0)
        engine.cancel("a")
        engine.cancel("a")
        engine.cancel("unknown")
        [result] = engine.turn(0)
        add(engine, "a", 5)
        engine.turn(0)
        executor.answer()
        assert engine.turn(0) == []
        executor.answer()
        [again] = engine.turn(0)
    assert isinstance(result.error, RequestAborted)
    assert rows_of(again) == [10]


def test_times_and_counts_are_told_per_request() -> None:
    executor, clock = by_hand(num_stages=2), HandClock()
    with open_engine(executor, clock=clock, max_batch=8) as engine:
        add(engine, "a", 1, 2)
        engine.turn(0)
        add(engine, "b", 3)
        engine.turn(0)
        add(engine, "c", 4)
        engine.turn(0)
        clock.now_s += 2.0
        executor.answer()
        executor.answer()
        results = engine.turn(0)
        executor.answer()
        results += engine.turn(0)
        stats = engine.stats()
    assert [(result.request_id, result.queue_s, result.compute_s) for result in results] == [
        ("a", 0.0, 1.0),
        ("b", 0.0, 1.0),
        ("c", 2.0, 1.0),
    ]
    assert (stats.num_rows, stats.num_batches, stats.num_succeeded) == (4, 3, 3)
    assert (stats.queue_s, stats.compute_s) == (2.0, 3.0)
    assert stats.batch_sizes == {2: 1, 1: 2}
    assert (stats.num_requests, stats.queued_requests, stats.in_flight_batches) == (0, 0, 0)


@pytest.mark.parametrize("loses_at", ["submit", "poll"])
def test_a_lost_replicas_requests_are_served_by_another(loses_at: str) -> None:
    broken, other = by_hand(), FakeGraphExecutor()
    with open_engine(broken, other) as engine:
        if loses_at == "submit":
            broken.loses_at_submit = True
        for index in range(6):
            add(engine, str(index), index)
        results = engine.turn(0)
        broken.lose()
        results += list(finish(engine).values())
        assert engine.stats().num_replicas == 1
        assert engine.filenos() != ()
    assert sorted((result.request_id, *rows_of(result)) for result in results) == [
        (str(index), 2 * index) for index in range(6)
    ]
    assert broken.num_closed == 1


def test_a_replica_that_fails_to_take_its_second_batch_of_a_turn_loses_both() -> None:
    class FailsLater(FakeGraphExecutor):
        def submit(self, batch):
            super().submit(batch)
            self.loses_at_submit = True

    broken, other = FailsLater(answers_by_hand=True), FakeGraphExecutor()
    with open_engine(broken, other, max_batch=1) as engine:
        for index in range(6):
            add(engine, str(index), index)
        results = finish(engine)
    assert {name: rows_of(result) for name, result in results.items()} == {str(i): [2 * i] for i in range(6)}


def test_a_silent_replica_counts_as_lost_within_seconds_and_its_rows_run_elsewhere(told: list[str]) -> None:
    silent, clock = by_hand(), HandClock()
    replicas = [silent, FakeGraphExecutor()]
    engine = BatchEngine(replicas, AXES, clock=clock, row_s=[0.001] * 2, sample=make_inputs(1.0))
    with closing(engine):
        add(engine, "a", 1)
        engine.turn(0)
        assert engine.next_wake_s() == 102.0
        clock.now_s = 102.0
        results = finish(engine)
        assert engine.stats().num_replicas == 1
    assert rows_of(results["a"]) == [2]
    assert told == ["replica 0 is lost: no answer for 2.0 s", "replica 0 is given up: no answer for 2.0 s"]


def test_while_nobody_listened_nobody_was_silent() -> None:
    """An event loop that was busy for long, or a computer that slept."""
    busy, clock = by_hand(), HandClock()
    with closing(BatchEngine([busy], AXES, clock=clock, row_s=[0.001], sample=make_inputs(1.0))) as engine:
        add(engine, "a", 1)
        engine.turn(0)
        busy.answer()
        clock.now_s += 60.0
        assert rows_of(finish(engine)["a"]) == [2]
        assert engine.stats().num_losses == 0


def test_a_slow_stage_is_told_of(told: list[str]) -> None:
    executor = FakeGraphExecutor(num_stages=2)
    with closing(BatchEngine([executor], AXES, clock=HandClock())) as engine:
        for slowdown in (1.0, 3.0):
            executor.compute_s = (0.5, 0.5 * slowdown)
            for index in range(40):
                add(engine, str(index), 1)
                finish(engine)
        assert engine.stats().slowdowns[0] == pytest.approx((1.0, 3.0))
        assert engine.stats().stage_s[0] == pytest.approx((0.5, 1.5))
        assert engine.stats().work[0].busy_s == pytest.approx((40.0, 80.0))
    assert told == ["replica 0: stage 1 has slowed down and takes 1.8 times as long as expected"]


class Starts:
    """A factory that hands out what was made beforehand."""

    def __init__(self, *executors: FakeGraphExecutor) -> None:
        self.executors = list(executors)
        self.asked: list[tuple[int, int | None, object]] = []

    def start(self, generation: int, without: int | None, previous: object) -> tuple[BatchLimits, FakeGraphExecutor]:
        self.asked.append((generation, without, previous))
        executor = self.executors.pop(0)
        return BatchLimits(num_stages=executor.num_stages), executor


def test_a_lost_replica_is_started_again_with_what_is_left_of_it(told: list[str]) -> None:
    first, second = by_hand(), FakeGraphExecutor(answers_by_hand=True, is_loading=True)
    factory = Starts(second)
    with closing(BatchEngine([first], AXES, clock=HandClock(), factories=[factory])) as engine:
        add(engine, "a", 1)
        engine.turn(0)
        first.lose()
        engine.turn(0)
        assert factory.asked == [(1, None, first)]
        assert (first.num_fenced, first.num_closed) == (1, 1)
        assert engine.stats().phases == (Phase.STARTING,)
        second.finish_loading()
        engine.turn(0)
        second.answer()
        assert rows_of(finish(engine)["a"]) == [2]
    assert told == ["replica 0 is lost: the fake worker is gone", "replica 0 has its workers again after 0.0 s"]


def test_other_workers_take_the_place_of_running_ones_and_no_row_is_lost_or_answered_twice() -> None:
    old, new = by_hand(), FakeGraphExecutor(answers_by_hand=True, num_stages=2, is_loading=True)
    factory, outcomes = Starts(new), list[ShoalError | None]()
    with closing(BatchEngine([old], AXES, BatchingConfig(max_batch=1), clock=HandClock())) as engine:
        for index in range(3):
            add(engine, str(index), index)
        engine.turn(0)
        engine.replace_replica(0, factory, outcomes.append)
        assert factory.asked == [(1, None, None)]
        old.answer()
        assert [rows_of(result) for result in engine.turn(0)] == [[0]]
        new.finish_loading()
        engine.turn(0)
        assert outcomes == [None]
        assert old.num_closed == 1
        assert len(new.waiting) == 2
        new.answer()
        new.answer()
        assert {name: rows_of(result) for name, result in finish(engine).items()} == {"1": [2], "2": [4]}
        assert engine.stats().num_losses == 0


def test_a_replica_that_joins_takes_its_share(told: list[str]) -> None:
    first, second = by_hand(), FakeGraphExecutor(answers_by_hand=True, is_loading=True)
    with closing(BatchEngine([first], AXES, BatchingConfig(max_batch=1), HandClock())) as engine:
        engine.add_replica(Starts(second))
        second.finish_loading()
        engine.turn(0)
        assert told == ["replica 1 has joined"]
        add(engine, "a", 1)
        add(engine, "b", 2)
        engine.turn(0)
        assert [len(one.waiting) for one in (first, second)] == [1, 1]
        first.answer()
        second.answer()
        assert len(finish(engine)) == 2


def test_a_request_that_crashes_its_workers_is_refused_and_others_are_served(monkeypatch: pytest.MonkeyPatch) -> None:
    crashing = by_hand()

    def crash() -> None:
        raise WorkerCrashed("killed by signal 11")

    with open_engine(crashing, FakeGraphExecutor()) as engine:
        add(engine, "poison", 1)
        engine.turn(0)
        monkeypatch.setattr(crashing, "poll", crash)
        crashing.lose()
        results = finish(engine)
        assert isinstance(results["poison"].error, InvalidRequest)
        assert "killed by signal 11" in str(results["poison"].error)
        add(engine, "a", 1)
        assert rows_of(finish(engine)["a"]) == [2]


def test_with_the_last_replica_everything_ends_and_then_the_engine() -> None:
    executor = by_hand()
    with open_engine(executor) as engine:
        add(engine, "a", 1)
        engine.turn(0)
        add(engine, "b", 1)
        executor.lose()
        results = engine.turn(0)
        assert {result.request_id for result in results} == {"a", "b"}
        assert all(isinstance(result.error, WorkerLost) for result in results)
        assert engine.next_wake_s() == 100.0
        for _ in range(2):
            with pytest.raises(WorkerLost, match="fake worker"):
                engine.turn(0)
        with pytest.raises(WorkerLost):
            add(engine, "c", 1)


def test_one_descriptor_tells_of_all_replicas() -> None:
    first, second = by_hand(), by_hand()
    with open_engine(first, second) as engine:
        [fd] = engine.filenos()
        poller = select.poll()
        poller.register(fd, select.POLLIN)
        add(engine, "a", 1)
        add(engine, "b", 2)
        engine.turn(0)
        for executor in (second, first):
            assert poller.poll(0) == []
            executor.answer()
            assert poller.poll(0) == [(fd, select.POLLIN)]
            assert len(engine.turn(0)) == 1
        assert poller.poll(0) == []
        engine.wake()
        assert poller.poll(0) != []
        engine.turn(0)
        assert poller.poll(0) == []


def test_executors_of_this_process_are_to_be_called_again_at_once() -> None:
    executor = FakeGraphExecutor()
    with open_engine(executor, max_batch=1) as engine:
        assert engine.next_wake_s() is None
        for name in "ab":
            add(engine, name, 1)
        assert len(engine.turn(0)) == 1
        assert engine.next_wake_s() == 100.0
        assert len(engine.turn(0)) == 1
        assert engine.next_wake_s() is None


def test_a_turn_without_work_waits_until_it_is_woken() -> None:
    with open_engine(FakeGraphExecutor()) as engine:
        woken = threading.Event()
        waker = threading.Timer(0.02, lambda: (woken.set(), engine.wake()))
        waker.start()
        assert engine.turn(60.0) == []
        assert woken.is_set()
        waker.join()


def test_an_event_loop_can_drive_it_without_a_thread() -> None:
    async def serve(num_requests: int) -> list[list[float]]:
        loop = asyncio.get_running_loop()
        executor = by_hand()
        engine = BatchEngine([executor], AXES, clock=loop.time)
        futures = {str(i): loop.create_future() for i in range(num_requests)}

        def pump() -> None:
            for result in engine.turn(0):
                futures[result.request_id].set_result(rows_of(result))
            if executor.waiting:
                loop.call_soon(executor.answer)

        loop.add_reader(engine.filenos()[0], pump)
        for index in range(num_requests):
            add(engine, str(index), index)
            loop.call_soon(pump)
            await asyncio.sleep(0)
        rows = await asyncio.wait_for(asyncio.gather(*futures.values()), TURN_S)
        loop.remove_reader(engine.filenos()[0])
        engine.close()
        return rows

    assert asyncio.run(serve(10)) == [[2 * index] for index in range(10)]


def test_outputs_are_those_of_the_inputs_given() -> None:
    rng = np.random.default_rng(0)
    requests = {str(i): make_inputs(*rng.random(rng.integers(1, 12))) for i in range(60)}
    with open_engine(*(FakeGraphExecutor(num_stages=n) for n in (1, 2, 3)), max_batch=8, min_cut_rows=2) as engine:
        for name, inputs in requests.items():
            engine.add(InferenceRequest(request_id=name, inputs=inputs))
        results = finish(engine)
    for name, inputs in requests.items():
        np.testing.assert_array_equal(results[name].outputs["y"], 2 * inputs["x"])
