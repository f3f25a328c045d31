"""Beam search in the scheduler: the outcome of a search that computes every hypothesis anew, and what it shares."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from shoal.core.generation.events import RequestCancelled, StepCompleted, WorkersLost, WorkersReady
from shoal.core.generation.steps.step_work import StepWork
from shoal.core.sequences.beams import BeamProgress, BeamSearch, Hypothesis
from shoal.core.sequences.request import Request, RequestFinished, RequestId, TokenProduced
from shoal.core.speed.step_times import StepShape
from shoal.errors import RemoteProtocolError
from shoal.protocol.language_messages import SampledToken, Sampling, StepResult, TokenLogprobs
from shoal.sim.invariants import check_state
from shoal.sim.reference_model import undisturbed_outcome
from shoal.sim.simulated_replica import SimulatedReplica, StepCost
from tests.core.generation.scheduler_driver import Driver, block_tables, ints, make_config, rows_per_sequence

STOP = frozenset(range(3))


def search(name: str = "a", prompt: int = 6, max_tokens: int = 24, **beams: Any) -> Request:
    how = BeamSearch(**({"num_beams": 4} | beams))
    return Request(
        request_id=RequestId(name),
        prompt_ids=tuple((sum(name.encode()) + i) % 61 for i in range(prompt)),
        max_tokens=max_tokens,
        sampling=Sampling(temperature=0.0, num_logprobs=how.num_candidates),
        stop_token_ids=STOP,
        beams=how,
    )


class Run:
    """A scheduler over a simulated replica, whose answers come when they are asked for."""

    def __init__(self, **config: int) -> None:
        self.config = make_config(**config)
        self.driver = Driver(self.config)
        self.told: list[TokenProduced] = []
        self.replica = SimulatedReplica(
            num_blocks=self.config.num_blocks,
            block_size=self.config.block_size,
            num_stages=1,
            cost=StepCost(fixed_s=0.0, token_s=0.0),
        )

    def answer(self) -> None:
        step = self.driver.in_flight.pop(0)
        work = StepWork(step=step, shape=StepShape.of([]), num_samples=len(step.samples))
        effects = self.driver.tell(StepCompleted(result=self.replica.run(work, 0.0)[0]))
        self.told += [effect for effect in effects if isinstance(effect, TokenProduced)]
        check_state(self.driver.scheduler.state)

    def finish(self) -> None:
        while self.driver.in_flight:
            self.answer()
        assert not self.driver.scheduler.has_unfinished
        assert self.driver.scheduler.stats().kv_usage == 0.0

    def lose(self) -> None:
        self.driver.in_flight.clear()
        self.driver.tell(WorkersLost())
        self.replica.restart(0.0)
        self.driver.tell(WorkersReady())

    def outcome(self, name: str = "a") -> tuple[tuple[int, ...], str]:
        return tuple(self.driver.tokens[name]), self.driver.finished[name].reason


def expected(run: Run, request: Request) -> tuple[tuple[int, ...], str]:
    outcome = undisturbed_outcome(run.config, request)
    return outcome.token_ids, outcome.reason


REQUESTS = [search(name, **beams) for name in "abcd" for beams in ({}, {"patience": 2.0}, {"length_penalty": 0.7})]


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda one: f"{one.request_id}-{one.beams.patience}")
@pytest.mark.parametrize("block_size", [1, 4])
def test_the_best_hypothesis_is_found(request_: Request, block_size: int) -> None:
    run = Run(block_size=block_size, num_blocks=256)
    run.driver.add(request_)
    run.finish()
    assert run.outcome(request_.request_id) == expected(run, request_)


def test_a_search_that_is_taken_from_lost_workers_ends_alike() -> None:
    for num_answers in range(1, 16):
        run = Run()
        run.driver.add(search(), search("b"))
        for _ in range(num_answers):
            run.answer()
        run.lose()
        run.finish()
        assert run.outcome() == expected(run, search())
        assert run.outcome("b") == expected(run, search("b"))


def test_a_lost_search_goes_on_where_it_was() -> None:
    run = Run()
    run.driver.add(search())
    for _ in range(8):
        run.answer()
    num_sent = len(run.driver.sent)
    run.lose()
    assert rows_per_sequence(run.driver.sent[num_sent]) == [6 + 8] * 4, "all rows of the hypotheses at once"


def test_searches_in_a_pipeline_and_in_little_memory() -> None:
    requests = [search(name, max_tokens=14) for name in "abcdef"]
    for config in ({"num_micro_batches": 3}, {"num_blocks": 24}, {"num_blocks": 40, "max_step_tokens": 3}):
        run = Run(**({"prefill_chunk_tokens": 3} | config))
        run.driver.add(*requests)
        run.finish()
        assert [run.outcome(one.request_id) for one in requests] == [expected(run, one) for one in requests]


def test_hypotheses_share_what_they_have_in_common() -> None:
    run = Run()
    run.driver.add(search(prompt=10))
    run.answer()
    tables, step = block_tables(run.driver.sent[1]), run.driver.sent[1]
    assert rows_per_sequence(step) == [1] * 4
    assert len({tuple(table[:2]) for table in tables}) == 1, "the prompt's full blocks"
    assert len({table[2] for table in tables}) == 4, "each writes to a block of its own"
    copies = ints(step.block_copies)
    assert len(copies) == 2 * 3
    assert set(copies[::2]) == {block for block in (table[2] for table in tables) if block not in copies[1::2]}


def test_nothing_is_told_before_the_end_and_then_all() -> None:
    run = Run()
    run.driver.add(search())
    run.answer()
    assert not run.told
    run.finish()
    finished = run.driver.finished["a"]
    assert finished.num_output_tokens == len(run.told) > 1
    assert all(one.logprobs is not None and one.logprobs.logprob < 0 for one in run.told)


def test_a_cancelled_search_leaves_nothing() -> None:
    for num_answers in range(4):
        run = Run()
        run.driver.add(search())
        for _ in range(num_answers):
            run.answer()
        run.driver.tell(RequestCancelled(request_id=RequestId("a")))
        run.finish()
        assert run.driver.finished["a"] == RequestFinished(
            request_id=RequestId("a"), reason="cancelled", num_prompt_tokens=6, num_output_tokens=0
        )


def test_more_beams_than_places_are_refused() -> None:
    run = Run(max_seqs=3)
    run.driver.add(search())
    assert "4 beams are more than the 3 sequences" in run.driver.finished["a"].message


def test_an_answer_without_candidates_is_no_answer() -> None:
    run = Run()
    run.driver.add(search())
    step = run.driver.in_flight.pop()
    bare = StepResult(step_id=step.step_id, generation=step.generation, tokens=(SampledToken(token_id=1),))
    with pytest.raises(RemoteProtocolError, match="likely"):
        run.driver.tell(StepCompleted(result=bare))


def likely(*pairs: tuple[int, float]) -> TokenLogprobs:
    ids, logprobs = zip(*pairs, strict=True)
    return TokenLogprobs(logprob=logprobs[0], top_ids=ids, top_logprobs=logprobs)


def rounds() -> Iterator[list[TokenLogprobs]]:
    """Worked out by hand: token 0 ends a hypothesis."""
    yield [likely((1, -0.5), (2, -1.0), (0, -3.0))]
    yield [likely((0, -0.1), (3, -2.0), (4, -4.0)), likely((5, -0.2), (0, -0.9), (6, -5.0))]


def test_a_search_worked_out_by_hand() -> None:
    how, progress, stop = BeamSearch(num_beams=2), BeamProgress(), frozenset({0})
    parents: list[list[int]] = []
    for candidates in rounds():
        progress, places = how.advance(progress, candidates, stop)
        parents.append(places)
    assert parents == [[0, 0], [1, 0]]
    assert [one.token_ids for one in progress.live] == [(2, 5), (1, 3)]
    assert [one.token_ids for one in progress.finished] == [(1, 0), (2, 0)]
    assert how.is_over(progress, 9)
    assert how.best(progress, stop).token_ids == (1, 0)
    assert BeamSearch(num_beams=2, length_penalty=1.0).best(progress, stop).token_ids == (1, 0)


def test_unfinished_hypotheses_count_only_where_few_have_ended() -> None:
    short = Hypothesis((1, 0), (-2.0, 0.0), -2.0)
    long = Hypothesis((2, 3, 4), (-0.1, -0.1, -0.1), -0.3)
    stop = frozenset({0})
    assert BeamSearch(num_beams=1).best(BeamProgress((long,), (short,)), stop) == short
    assert BeamSearch(num_beams=2).best(BeamProgress((long,), (short,)), stop) == long


def test_tokens_that_are_forbidden_are_never_followed() -> None:
    candidates = likely((0, -0.1), (7, -float("inf")), (8, -float("inf")))
    progress, parents = BeamSearch(num_beams=2).advance(BeamProgress(), [candidates], frozenset({0}))
    assert (progress.live, parents, len(progress.finished)) == ((), [], 1)
    assert BeamSearch(num_beams=2).is_over(progress, 9)
