"""Chunks through replicas: each result once, whatever is lost, and no more held than there is room for."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.core.batching.events import BatchLimits
from shoal.core.recovery.config import RecoveryConfig
from shoal.core.recovery.worker_life import Phase
from shoal.errors import InvalidRequest, ShoalError, WorkerCrashed, WorkerLost
from shoal.offline.pull import Chunk, ChunkResult, ChunkRunner
from shoal.protocol.worker_messages import Generation
from shoal.router.graph_executor import Array, BatchResult, GraphExecutor, Tensors
from tests.log_lines import replica_lines
from tests.offline.fake_graphs import HandExecutor, InlineExecutor, ScriptedExecutor


def double(inputs: Tensors) -> dict[str, Array]:
    return {"y": 2 * inputs["x"]}


def make_chunk(index: int) -> Chunk:
    return Chunk(index=index, inputs={"x": np.full(3, index, np.float32)})


def chunks(count: int) -> Iterator[Chunk]:
    return map(make_chunk, range(count))


def run_chunks(
    executors: Sequence[GraphExecutor], chunks: Iterable[Chunk], *, copy_last: bool = False
) -> Iterator[ChunkResult]:
    with ChunkRunner(executors) as runner:
        yield from runner.run(chunks, copy_last=copy_last)


def test_every_chunk_has_its_result() -> None:
    executors = [InlineExecutor(double), InlineExecutor(double, num_stages=2)]
    results = {result.index: result.outputs["y"] for result in run_chunks(executors, chunks(50), copy_last=True)}
    assert sorted(results) == list(range(50))
    for index, y in results.items():
        np.testing.assert_array_equal(y, np.full(3, 2 * index))
    assert all(executor.batches for executor in executors)


def test_the_input_is_read_only_as_far_as_there_is_room() -> None:
    num_read = num_done = most_held = 0

    def count() -> Iterator[Chunk]:
        nonlocal num_read, most_held
        for chunk in chunks(200):
            num_read += 1
            most_held = max(most_held, num_read - num_done)
            yield chunk

    for _ in run_chunks([InlineExecutor(double), InlineExecutor(double, num_stages=3)], count()):
        num_done += 1
    assert num_done == 200
    assert most_held <= 2 + 4


def test_chunks_of_a_lost_replica_run_elsewhere() -> None:
    executors = [InlineExecutor(double, lost_after=3), InlineExecutor(double)]
    indices = [result.index for result in run_chunks(executors, chunks(20))]
    assert sorted(indices) == list(range(20))
    assert executors[0].num_closed == 1
    assert executors[1].num_closed == 1


def test_the_last_loss_ends_the_run() -> None:
    executors = [InlineExecutor(double, lost_after=3), InlineExecutor(double, lost_after=2)]
    results = run_chunks(executors, chunks(20))
    with pytest.raises(WorkerLost, match="the fake worker is gone"):
        list(results)


def test_a_chunk_that_kills_is_given_up_and_the_others_are_done() -> None:
    class Poisoned(InlineExecutor):
        def poll(self) -> list[BatchResult]:
            if self._queue and self._queue[0].inputs["x"][0] == 2:
                raise WorkerLost("poison")
            return super().poll()

    results = {result.index: result.error for result in run_chunks([Poisoned(double) for _ in range(4)], chunks(9))}
    assert sorted(results) == list(range(9))
    assert [index for index, error in results.items() if error] == [2]


def test_an_error_is_the_chunks_own() -> None:
    def refuse_odd(inputs: Tensors) -> dict[str, Array]:
        if inputs["x"][0] % 2:
            raise InvalidRequest("odd")
        return double(inputs)

    results = {result.index: result.error for result in run_chunks([InlineExecutor(refuse_odd)], chunks(4))}
    assert results == {0: None, 1: "odd", 2: None, 3: "odd"}


def test_a_silent_replica_at_the_end_does_not_hold_up_the_job() -> None:
    silent, quick = HandExecutor(double), InlineExecutor(double)
    try:
        results = [result.index for result in run_chunks([silent, quick], chunks(6), copy_last=True)]
    finally:
        silent.close()
    assert sorted(results) == list(range(6))
    assert len(silent.queue) == 2


def test_late_answers_of_an_abandoned_run_are_not_taken_for_the_next_ones() -> None:
    executor = HandExecutor(double, num_prompt=1)
    runner = ChunkRunner([executor])
    try:
        first = runner.run(chunks(2))
        assert next(first).index == 0
        first.close()
        executor.answer()
        executor.num_prompt = 1
        assert [(result.index, result.outputs["y"][0]) for result in runner.run([make_chunk(7)])] == [(7, 14)]
    finally:
        executor.close()


def test_a_replica_that_answers_nothing_for_too_long_is_lost() -> None:
    now_s = 0.0

    def clock() -> float:
        nonlocal now_s
        now_s += 100.0
        return now_s

    class Silent(InlineExecutor):
        def poll(self) -> list[BatchResult]:
            return []

    with pytest.raises(WorkerLost, match="no answer for"):
        list(ChunkRunner([Silent(double)], clock=clock).run(chunks(1)))


def test_the_time_that_a_replica_had_nothing_to_do_does_not_count() -> None:
    now_s = 0.0

    class Slow(InlineExecutor):
        """Answers at every other poll."""

        num_polls = 0

        def poll(self) -> list[BatchResult]:
            self.num_polls += 1
            return super().poll() if self.num_polls % 2 == 0 else []

    runner = ChunkRunner([Slow(double)], clock=lambda: now_s)
    assert len(list(runner.run(chunks(1)))) == 1
    now_s = 1e6
    assert len(list(runner.run(chunks(1)))) == 1


class Restarted(InlineExecutor):
    """Workers that were started again: ready at once."""

    failed_worker = silent = None
    waiting_for = ""
    row_s = 0.0

    def poll_loading(self) -> bool:
        return True


class Factory:
    """Hands out what was made beforehand; an error in its place is raised."""

    def __init__(self, *executors: Restarted | Started | ShoalError) -> None:
        self.executors = list(executors)

    def start(self, generation: Generation, without: int | None, previous: object) -> tuple[BatchLimits, Any]:
        executor = self.executors.pop(0)
        if isinstance(executor, ShoalError):
            raise executor
        return BatchLimits(num_stages=1), executor


RECOVERY = RecoveryConfig(max_failures=5, crash_loop_s=0.0, backoff_s=0.001)


def run_restarting(
    first: InlineExecutor, *later: Restarted | ShoalError, count: int = 9
) -> tuple[list[ChunkResult], list[str]]:
    with replica_lines() as told, ChunkRunner([first], factories=[Factory(*later)], recovery=RECOVERY) as runner:
        return list(runner.run(chunks(count))), told


def test_the_only_replica_is_started_again_and_does_the_rest() -> None:
    first, second = InlineExecutor(double, lost_after=3), Restarted(double)
    results, told = run_restarting(first, second)
    assert sorted(result.index for result in results) == list(range(9))
    assert (len(first.batches), len(second.batches)) == (3, 6)
    assert (first.num_closed, second.num_closed) == (1, 1)
    assert told[0] == "replica 0 is lost: the fake worker is gone"
    assert "has its workers again" in told[1]


def test_a_start_that_fails_is_tried_again() -> None:
    results, _ = run_restarting(InlineExecutor(double, lost_after=3), WorkerLost("no memory"), Restarted(double))
    assert sorted(result.index for result in results) == list(range(9))


def test_a_chunk_that_kills_every_worker_of_the_only_replica_is_given_up() -> None:
    def kill_at_two(inputs: Tensors) -> dict[str, Array]:
        if inputs["x"][0] == 2:
            raise WorkerLost("poison")
        return double(inputs)

    results, _ = run_restarting(InlineExecutor(kill_at_two), *(Restarted(kill_at_two) for _ in range(3)))
    assert sorted(result.index for result in results) == list(range(9))
    assert [result.index for result in results if result.error] == [2]


def test_workers_that_never_start_again_end_the_run() -> None:
    with pytest.raises(WorkerLost, match="no memory"):
        run_restarting(InlineExecutor(double, lost_after=3), *[WorkerLost("no memory")] * 9)


def test_a_lost_replica_serves_the_next_run() -> None:
    lost = InlineExecutor(double, lost_after=1)
    with ChunkRunner([lost], factories=[Factory(Restarted(double))], recovery=RECOVERY) as runner:
        assert len(list(runner.run(chunks(1)))) == 1
        assert len(list(runner.run(chunks(4)))) == 4


def test_no_chunks_no_results() -> None:
    assert list(run_chunks([InlineExecutor(double)], iter(()))) == []


scripts = st.lists(st.integers(0, 3) | st.just(-1), max_size=30)


@settings(deadline=None)
@given(st.integers(0, 40), st.lists(st.tuples(scripts, st.integers(1, 3)), max_size=4), scripts, st.booleans())
def test_whatever_the_order_of_answers_and_losses_every_chunk_has_one_result(
    count: int, others: list[tuple[list[int], int]], survivor: list[int], copy_last: bool
) -> None:
    executors = [ScriptedExecutor(double, script, num_stages=num_stages) for script, num_stages in others]
    executors.append(ScriptedExecutor(double, [max(0, answers) for answers in survivor]))
    results = [
        (result.index, result.error, result.outputs.get("y"))
        for result in run_chunks(executors, chunks(count), copy_last=copy_last)
    ]
    assert sorted(index for index, _, _ in results) == list(range(count))
    for index, error, y in results:
        if error is None:
            np.testing.assert_array_equal(y, np.full(3, 2 * index))
        else:
            assert "given up after 3 replicas" in error


def test_a_chunk_that_crashes_the_only_replica_costs_it_once() -> None:
    def crash_at_two(inputs: Tensors) -> dict[str, Array]:
        if inputs["x"][0] == 2:
            raise WorkerCrashed("killed by signal 11")
        return double(inputs)

    results, told = run_restarting(InlineExecutor(crash_at_two), *(Restarted(crash_at_two) for _ in range(2)))
    assert [result.index for result in results if result.error] == [2]
    assert "killed by signal 11" in next(result.error for result in results if result.error)
    assert sum("is lost" in line for line in told) <= 2


class Started(HandExecutor):
    """Workers that say through their descriptor that they are ready, and answer at once."""

    failed_worker = silent = None
    waiting_for = ""
    row_s = 0.0

    def __init__(self) -> None:
        super().__init__(double, num_prompt=100)
        os.eventfd_write(self.filenos()[0], 1)

    def poll_loading(self) -> bool:
        os.eventfd_read(self.filenos()[0])
        return True


def test_other_workers_take_the_place_of_a_replicas_own_during_a_run() -> None:
    first, second, third = HandExecutor(double, num_prompt=2), Started(), Started()
    done: list[ShoalError | None] = []
    told: list[str] = []
    runner = ChunkRunner([first], recovery=RECOVERY)

    def look() -> None:
        if first.num_prompt == 0 and not told:
            told.append("looked")
            runner.replace_replica(0, Factory(second), done.append)
            runner.add_replica(Factory(third), done.append)

    runner.watch(look, lambda: told.append("closed"))
    with runner:
        results = sorted(result.index for result in runner.run(chunks(50)))
        assert runner.stats().phases == (Phase.SERVING, Phase.SERVING)
        assert told == ["looked"]
    assert results == list(range(50)), "what the first workers still had is computed by others"
    assert done == [None, None]
    assert second.num_prompt < 100
    assert third.num_prompt < 100
    assert [one.num_closed for one in (first, second, third)] == [1, 1, 1]
    assert told == ["looked", "closed"]
