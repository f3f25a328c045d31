"""Sampling against its definitions: a plain reference over the whole vocabulary, and the distribution itself."""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pytest

from shoal.model.decoder.sampling.sampling import sample_rows, uniform
from shoal.protocol.language_messages import SampledToken, SampleRow, Sampling

F32 = npt.NDArray[np.float32]
VOCAB = 50
TOP_SIGMAS = 5.0
"""A count further than this from its expectation is no chance; seeds are fixed, so it is all or nothing."""


def make_logits(seed: int = 0, *, vocab: int = VOCAB, spread: float = 2.0) -> F32:
    return (spread * np.random.default_rng(seed).standard_normal(vocab)).astype(np.float32)


def make_row(
    sampling: Sampling, index: int = 0, *, history: tuple[int, ...] = (), target: int | None = None
) -> SampleRow:
    packed = np.array(history, "<i4").tobytes()
    return SampleRow(row=0, token_index=index, sampling=sampling, history=packed, target=target)


def draw(logits_V: F32, sampling: Sampling, index: int = 0, **options: object) -> SampledToken:
    (token,) = sample_rows(logits_V[None].copy(), [make_row(sampling, index, **options)])  # type: ignore[arg-type]
    return token


def counts(logits_V: F32, sampling: Sampling, num_draws: int) -> npt.NDArray[np.int64]:
    rows = [make_row(sampling, index) for index in range(num_draws)]
    tokens = sample_rows(np.tile(logits_V, (num_draws, 1)), rows)
    return np.bincount([token.token_id for token in tokens], minlength=len(logits_V))


def softmax(logits_V: F32, temperature: float = 1.0) -> npt.NDArray[np.float64]:
    scores_V = logits_V.astype(np.float64) / temperature
    weights_V = np.exp(scores_V - scores_V.max())
    return weights_V / weights_V.sum()


@dataclass
class PlainSampler:
    """Temperature, top-k, top-p and min-p by sorting everything, one after the other, renormalizing each time."""

    sampling: Sampling

    def distribution(self, logits_V: F32) -> npt.NDArray[np.float64]:
        probabilities_V = softmax(logits_V, self.sampling.temperature)
        order = np.argsort(-probabilities_V, kind="stable")
        kept = list(order[: self.sampling.top_k or len(order)])
        mass = probabilities_V[kept].sum()
        nucleus: list[int] = []
        for token in kept:
            nucleus.append(int(token))
            if probabilities_V[nucleus].sum() >= self.sampling.top_p * mass:
                break
        floor = self.sampling.min_p * probabilities_V[order[0]]
        result_V = np.zeros_like(probabilities_V)
        for token in nucleus:
            if probabilities_V[token] >= floor:
                result_V[token] = probabilities_V[token]
        return result_V / result_V.sum()


def check_distribution(observed: npt.NDArray[np.int64], expected: npt.NDArray[np.float64]) -> None:
    """Pearson's chi-squared over tokens that are likely enough to count, and nothing outside the support."""
    num_draws = observed.sum()
    assert not observed[expected == 0].any()
    likely = expected * num_draws >= 5
    statistic = ((observed - expected * num_draws)[likely] ** 2 / (expected * num_draws)[likely]).sum()
    freedom = max(1, int(likely.sum()) - 1)
    assert statistic < freedom + TOP_SIGMAS * math.sqrt(2 * freedom)


def test_temperature_0_takes_the_best_and_the_first_of_equals() -> None:
    logits_V = make_logits()
    assert draw(logits_V, Sampling(temperature=0.0)).token_id == int(logits_V.argmax())
    assert draw(np.array([1, 3, 2, 3], np.float32), Sampling(temperature=0.0)).token_id == 1


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_draws_follow_the_softmax(temperature: float) -> None:
    logits_V = make_logits(1)
    observed = counts(logits_V, Sampling(temperature=temperature, seed=7), 8000)
    check_distribution(observed, softmax(logits_V, temperature))


def test_the_check_notices_another_temperature() -> None:
    logits_V = make_logits(1)
    with pytest.raises(AssertionError):
        check_distribution(counts(logits_V, Sampling(temperature=1.1, seed=7), 8000), softmax(logits_V))


@pytest.mark.parametrize("temperature", [2.0**-150, 1e-46, 1e-300, 5e-324])
def test_what_float32_takes_for_0_is_greedy(temperature: float) -> None:
    for seed in range(20):
        logits_V = make_logits(seed)
        assert draw(logits_V, Sampling(temperature=temperature, seed=seed)).token_id == logits_V.argmax()
    assert not Sampling(temperature=1e-45).is_greedy


def test_a_very_small_temperature_is_greedy() -> None:
    logits_V = make_logits(2)
    assert draw(logits_V, Sampling(temperature=1e-6, seed=1)).token_id == int(logits_V.argmax())


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(top_k=1),
        Sampling(top_k=7),
        Sampling(top_k=VOCAB + 10),
        Sampling(top_p=0.01),
        Sampling(top_p=0.5),
        Sampling(top_p=0.95),
        Sampling(min_p=0.1),
        Sampling(min_p=1.0),
        Sampling(top_k=20, top_p=0.8),
        Sampling(top_k=20, top_p=0.9, min_p=0.05, temperature=1.5),
        Sampling(top_p=0.9, min_p=0.05, temperature=0.7),
    ],
    ids=repr,
)
def test_truncations_follow_the_plain_sampler(sampling: Sampling) -> None:
    logits_V = make_logits(3)
    check_distribution(counts(logits_V, sampling, 4000), PlainSampler(sampling).distribution(logits_V))


@pytest.mark.parametrize("sampling", [Sampling(top_k=2), Sampling(top_p=0.3), Sampling(top_k=4, top_p=0.45)], ids=repr)
def test_ties_at_the_edge_go_to_the_smaller_id(sampling: Sampling) -> None:
    observed = counts(np.array([0, 1, 1, 1, 1, 1, 0, 0], np.float32), sampling, 200)
    assert np.flatnonzero(observed).tolist() == [1, 2]


def test_a_nucleus_larger_than_the_first_guess() -> None:
    """Flat logits: nine tenths of 4000 tokens are in the nucleus, far more than are sorted at first."""
    logits_V = make_logits(4, vocab=4000, spread=0.01)
    sampling = Sampling(top_p=0.9, seed=3)
    support = PlainSampler(sampling).distribution(logits_V) > 0
    observed = counts(logits_V, sampling, 3000)
    assert not observed[~support].any()
    assert observed[np.argsort(-logits_V)[600:]].any()


def test_every_request_parameter_is_its_own_rows() -> None:
    logits_V = make_logits(5)
    samplings = [Sampling(temperature=0.0), Sampling(seed=1), Sampling(top_k=1, seed=9), Sampling(top_p=0.3, seed=2)]
    together = sample_rows(np.tile(logits_V, (4, 1)), [make_row(sampling, 3) for sampling in samplings])
    assert together == [draw(logits_V, sampling, 3) for sampling in samplings]


def test_draws_depend_on_seed_and_index_alone() -> None:
    logits_V = make_logits(6)
    assert draw(logits_V, Sampling(seed=5), 11) == draw(logits_V, Sampling(seed=5), 11)
    by_index = [draw(logits_V, Sampling(seed=5), index).token_id for index in range(50)]
    by_seed = [draw(logits_V, Sampling(seed=seed), 0).token_id for seed in range(50)]
    assert len(set(by_index)) > 5
    assert len(set(by_seed)) > 5


def test_streams_are_uniform_and_independent() -> None:
    """Neighboring seeds and indices, the ones that `n` choices and consecutive tokens use."""
    numbers = np.array([[uniform(seed, index) for index in range(200)] for seed in range(40)])
    assert numbers.min() >= 0.0
    assert numbers.max() < 1.0
    assert len(np.unique(numbers)) == numbers.size
    check_distribution(np.histogram(numbers, bins=20, range=(0, 1))[0], np.full(20, 0.05))
    bound = TOP_SIGMAS / math.sqrt(numbers.size)
    for left, right in (
        (numbers[1:], numbers[:-1]),
        (numbers[:, 1:], numbers[:, :-1]),
        (numbers[1:, 1:], numbers[:-1, :-1]),
    ):
        assert abs(np.corrcoef(left.ravel(), right.ravel())[0, 1]) < bound


def test_a_shifted_seed_is_no_shifted_stream() -> None:
    first = [uniform(1, index) for index in range(100)]
    assert not set(first) & {uniform(2, index) for index in range(100)}


@pytest.mark.parametrize("seed", [0, 1, 2**63 - 1])
def test_every_seed_draws(seed: int) -> None:
    assert 0 <= draw(make_logits(), Sampling(seed=seed), 2**31 - 1).token_id < VOCAB


def test_penalties_follow_their_formula() -> None:
    logits_V = make_logits(7)
    history = (3, 3, 3, 10, 20)
    sampling = Sampling(temperature=0.0, presence_penalty=0.7, frequency_penalty=0.4, num_logprobs=VOCAB)
    expected_V = logits_V.copy()
    for token, count in {3: 3, 10: 1, 20: 1}.items():
        expected_V[token] -= 0.7 + 0.4 * count
    token = draw(logits_V, sampling, history=history)
    assert token.token_id == int(expected_V.argmax())
    assert token.logprobs is not None
    by_id = dict(zip(token.logprobs.top_ids, token.logprobs.top_logprobs, strict=True))
    np.testing.assert_allclose([by_id[i] for i in range(VOCAB)], np.log(softmax(expected_V)), atol=1e-5)


def test_a_penalty_moves_the_greedy_choice_and_a_negative_one_keeps_it() -> None:
    logits_V = np.array([0.0, 2.0, 1.9], np.float32)
    assert draw(logits_V, Sampling(temperature=0.0, presence_penalty=0.2), history=(1,)).token_id == 2
    assert draw(logits_V, Sampling(temperature=0.0, presence_penalty=-2.0), history=(0, 2)).token_id == 2
    assert draw(logits_V, Sampling(temperature=0.0, frequency_penalty=0.06), history=(1,)).token_id == 1
    assert draw(logits_V, Sampling(temperature=0.0, frequency_penalty=0.06), history=(1, 1)).token_id == 2


def test_biases_are_added_and_repetitions_are_penalized_as_transformers_does() -> None:
    torch = pytest.importorskip("torch")
    logits_process = pytest.importorskip("transformers.generation.logits_process")
    logits_V, repeated = make_logits(11), [2, 5, 9, 30]
    sampling = Sampling(temperature=0.0, repetition_penalty=1.7, logit_bias=((5, 3.0), (7, -100.0)), num_logprobs=VOCAB)
    biased_V = logits_V.copy()
    biased_V[[5, 7]] += np.array([3.0, -100.0], np.float32)
    process = logits_process.RepetitionPenaltyLogitsProcessor(1.7)
    expected_V = process(torch.tensor([repeated]), torch.tensor(biased_V[None]))[0].numpy()
    row = SampleRow(row=0, token_index=0, sampling=sampling, repeated=np.array(repeated, "<i4").tobytes())
    (token,) = sample_rows(logits_V[None].copy(), [row])
    assert token.token_id == int(expected_V.argmax())
    assert token.logprobs is not None
    by_id = dict(zip(token.logprobs.top_ids, token.logprobs.top_logprobs, strict=True))
    np.testing.assert_allclose([by_id[i] for i in range(VOCAB)], np.log(softmax(expected_V)), atol=1e-4)


def test_forbidden_tokens_are_never_drawn() -> None:
    logits_RV = np.tile(make_logits(12), (200, 1))
    best = int(logits_RV[0].argmax())
    rows = [SampleRow(row=0, token_index=index, sampling=Sampling(seed=1), forbidden=(best, 0)) for index in range(200)]
    assert not {token.token_id for token in sample_rows(logits_RV, rows)} & {best, 0}


def test_penalties_touch_no_other_row() -> None:
    logits_RV = np.tile(make_logits(8), (2, 1))
    best = int(logits_RV[0].argmax())
    penalized = make_row(Sampling(temperature=0.0, presence_penalty=2.0, frequency_penalty=2.0), history=(best,) * 3)
    first, second = sample_rows(logits_RV, [penalized, make_row(Sampling(temperature=0.0))])
    assert first.token_id != best
    assert second.token_id == best


def test_logprobs_are_a_log_distribution_most_likely_first() -> None:
    logits_V = make_logits(9)
    token = draw(logits_V, Sampling(temperature=0.8, top_k=5, seed=4, num_logprobs=VOCAB))
    assert token.logprobs is not None
    logprobs = token.logprobs
    assert sum(math.exp(value) for value in logprobs.top_logprobs) == pytest.approx(1.0, abs=1e-5)
    assert list(logprobs.top_ids) == np.argsort(-logits_V, kind="stable").tolist()
    assert logprobs.logprob == pytest.approx(
        dict(zip(logprobs.top_ids, logprobs.top_logprobs, strict=True))[token.token_id]
    )


@pytest.mark.parametrize(("num_logprobs", "length"), [(None, None), (0, 0), (3, 3)])
def test_as_many_logprobs_as_asked_for(num_logprobs: int | None, length: int | None) -> None:
    logprobs = draw(make_logits(), Sampling(temperature=0.0, num_logprobs=num_logprobs)).logprobs
    assert (None if logprobs is None else len(logprobs.top_ids)) == length


def test_more_logprobs_than_tokens_gives_all_tokens() -> None:
    logprobs = draw(make_logits(), Sampling(temperature=0.0, num_logprobs=VOCAB + 5)).logprobs
    assert logprobs is not None
    assert sorted(logprobs.top_ids) == list(range(VOCAB))


def test_a_target_is_taken_and_scored() -> None:
    logits_V = make_logits(10)
    worst = int(logits_V.argmin())
    token = draw(logits_V, Sampling(temperature=0.0, num_logprobs=0), target=worst)
    assert token.token_id == worst
    assert token.logprobs is not None
    assert token.logprobs.logprob == pytest.approx(math.log(softmax(logits_V)[worst]), abs=1e-5)


def test_raw_logits_are_those_before_penalties() -> None:
    logits_V = make_logits(11)
    row = SampleRow(
        row=0,
        token_index=1,
        sampling=Sampling(presence_penalty=1.0),
        history=np.array([2], "<i4").tobytes(),
        want_logits=True,
    )
    (token,) = sample_rows(logits_V[None].copy(), [row])
    np.testing.assert_array_equal(np.frombuffer(token.logits, "<f4"), logits_V)
