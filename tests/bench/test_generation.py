"""The closed loop, perplexity and verification, over an engine of fakes."""

import math
from dataclasses import replace

import numpy as np
import pytest

from shoal.bench.generation import FinishedRequest, generate
from shoal.core.generation.steps.step_work import StepWork
from shoal.core.sequences.request import Request, RequestId
from shoal.errors import InvalidRequest, RequestError, WorkerLost
from shoal.protocol.language_messages import SampledToken, StepResult, TokenLogprobs
from shoal.verify.language import compare
from shoal.verify.perplexity import perplexity
from tests.router.fakes import FakeExecutor, expected_tokens, make_request, open_engine


def test_results_come_in_the_given_order_with_all_tokens() -> None:
    requests = [make_request(name, max_tokens=count, seed=count) for name, count in (("a", 9), ("b", 2), ("c", 5))]
    with open_engine(FakeExecutor(), FakeExecutor()) as engine:
        results = generate(engine, requests, concurrency=3)
    assert [result.request.request_id for result in results] == ["a", "b", "c"]
    for result, count in zip(results, (9, 2, 5), strict=True):
        assert result.token_ids == expected_tokens(count, count)
        assert result.finish_reason == "length"
        assert result.ttft_s >= 0
        assert result.tpot_s >= 0


@pytest.mark.parametrize("concurrency", [1, 2, 5])
def test_never_more_than_concurrency_at_once(concurrency: int) -> None:
    sizes: list[int] = []

    class Counting(FakeExecutor):
        def submit(self, work: StepWork) -> None:
            sizes.append(work.step.num_sequences)
            super().submit(work)

    with open_engine(Counting()) as engine:
        generate(engine, [make_request(name) for name in "abcdefg"], concurrency=concurrency)
    assert max(sizes) == concurrency


def test_callbacks_see_every_token_and_every_end() -> None:
    tokens: list[int] = []
    ends: list[str] = []
    with open_engine(FakeExecutor()) as engine:
        generate(
            engine,
            [make_request("a"), make_request("b", seed=2)],
            concurrency=1,
            on_token=lambda token: tokens.append(token.token_id),
            on_finished=lambda result: ends.append(result.request.request_id),
        )
    assert tokens == expected_tokens(1, 5) + expected_tokens(2, 5)
    assert ends == ["a", "b"]


def test_a_failed_request_is_raised() -> None:
    lost = FakeExecutor()
    lost.loses_at_poll = True
    with open_engine(lost) as engine, pytest.raises((WorkerLost, RequestError), match="the fake worker is gone"):
        generate(engine, [make_request("a")], concurrency=1)


def test_a_request_goes_on_where_there_is_another_replica() -> None:
    lost = FakeExecutor()
    lost.loses_at_poll = True
    with open_engine(lost, FakeExecutor()) as engine:
        (result,) = generate(engine, [make_request("a")], concurrency=1)
    assert list(result.token_ids) == expected_tokens(1, 5)


class _Scorer(FakeExecutor):
    """Gives token t the probability 1 / (t + 1)."""

    def compute(self, work: StepWork) -> StepResult:
        tokens = tuple(
            SampledToken(token_id=row.target, logprobs=TokenLogprobs(logprob=-math.log(row.target + 1)))
            for row in work.step.samples
            if row.target is not None
        )
        return StepResult(step_id=work.step.step_id, generation=work.step.generation, tokens=tokens)


def test_perplexity_scores_all_but_the_first_token_of_full_windows() -> None:
    tokens = [90, 1, 3, 91, 1, 7, 92, 2]
    seen: list[tuple[int, int]] = []
    with open_engine(_Scorer()) as engine:
        result = perplexity(engine, tokens, window_tokens=3, on_window=lambda *update: seen.append(update))
    assert (result.num_windows, result.num_targets) == (2, 4)
    assert result.perplexity == pytest.approx((2 * 4 * 2 * 8) ** (1 / 4))
    assert seen == [(1, 2), (2, 2)]


def test_perplexity_of_the_first_windows_and_of_too_few_tokens() -> None:
    with open_engine(_Scorer()) as engine:
        assert perplexity(engine, [0, 1] * 5, window_tokens=2, max_windows=3).num_windows == 3
        with pytest.raises(InvalidRequest, match="window"):
            perplexity(engine, [1, 2, 3], window_tokens=4)


def _generation(tokens: list[int], logits: list[list[float]]) -> FinishedRequest:
    request = Request(request_id=RequestId("x"), prompt_ids=(1,), max_tokens=len(tokens))
    rows = [np.array(row, "<f4").tobytes() for row in logits]
    return FinishedRequest(request=request, added_s=0.0, token_ids=tokens, logits=rows)


WHOLE = _generation([1, 2, 1], [[0, 1, 0], [0, 0, 1], [0, 1, 0]])


def test_equal_runs_agree() -> None:
    result = compare([WHOLE, WHOLE], [WHOLE, WHOLE], 1e-3)
    assert result.agrees
    assert (result.num_prompts, result.num_tokens, result.token_agreement) == (2, 6, 1.0)
    assert result.max_logit_difference == 0.0


def test_one_other_token_is_a_mismatch_and_what_follows_is_not_compared() -> None:
    """Where the runs part the logits still have the same prefix; after that they answer different questions."""
    other = _generation([1, 0, 1], [[0, 1, 0], [0.0, 0, 0.5], [9, 9, 9]])
    result = compare([WHOLE], [other], 1e-3)
    assert not result.agrees
    assert result.num_equal_tokens == 1
    assert result.max_logit_difference == 0.5


def test_equal_tokens_with_other_logits_are_a_mismatch_beyond_the_tolerance() -> None:
    near = replace(WHOLE, logits=[*WHOLE.logits[:2], np.array([0, 1.0005, 0], "<f4").tobytes()])
    far = replace(WHOLE, logits=[*WHOLE.logits[:2], np.array([0, 1.01, 0], "<f4").tobytes()])
    assert compare([WHOLE], [near], 1e-3).agrees
    assert not compare([WHOLE], [far], 1e-3).agrees
    assert compare([WHOLE], [far], 0.5).agrees


def test_a_tie_may_be_broken_either_way() -> None:
    """Tokens 1 and 2 are as likely as each other at the second position, so the runs may part there."""
    whole = _generation([1, 2, 1], [[0, 1, 0], [0, 1, 1.0004], [0, 1, 0]])
    other = _generation([1, 1, 2], [[0, 1, 0], [0, 1.0005, 1], [0, 0, 1]])
    result = compare([whole], [other], 1e-3)
    assert result.agrees
    assert (result.num_ties, result.num_mismatches, result.num_equal_tokens) == (1, 0, 1)


@pytest.mark.parametrize("shorter_first", [True, False])
def test_a_missing_token_is_a_mismatch(shorter_first: bool) -> None:
    short = _generation([1, 2], [[0, 1, 0], [0, 0, 1]])
    pair = ([short], [WHOLE]) if shorter_first else ([WHOLE], [short])
    assert not compare(*pair, 1e-3).agrees
