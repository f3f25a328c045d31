"""Sampling from shards of the vocabulary gives what sampling from the whole gives, wherever the cuts are."""

from collections.abc import Iterable, Sequence

import msgspec
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.model.decoder.sampling.candidates import pick
from shoal.model.decoder.sampling.sampling import sample_rows
from shoal.model.decoder.sampling.shard_sampling import sample_shard
from shoal.protocol.language_messages import SampledToken, SampleRow, Sampling
from tests.model.decoder.lockstep import run_ranks

F32 = npt.NDArray[np.float32]
LOGPROB_TOLERANCE = 1e-5
"""The sums of exp are those of the same fp32 numbers in another order."""
GREEDY = Sampling(temperature=0.0)
BIG_VOCAB = 20_000


def make_row(sampling: Sampling, index: int = 0, **options: object) -> SampleRow:
    return SampleRow(row=0, token_index=index, sampling=sampling, **options)  # type: ignore[arg-type]


def sample_cut(logits_RV: F32, rows: Sequence[SampleRow], cuts: Sequence[int]) -> tuple[list[SampledToken], list[int]]:
    """The tokens, equal on all shards, and the bytes of a shard in each exchange."""
    vocab_size = logits_RV.shape[1]
    spans = zip([0, *cuts], [*cuts, vocab_size], strict=True)
    ranks = [
        sample_shard(logits_RV[:, first:last].copy(), rows, first_id=first, vocab_size=vocab_size)
        for first, last in spans
    ]
    results, lengths = run_ranks(ranks)
    assert all(result == results[0] for result in results)
    return results[0], lengths


def check_equal(found: Sequence[SampledToken], expected: Sequence[SampledToken]) -> None:
    for token, whole in zip(found, expected, strict=True):
        assert token.token_id == whole.token_id
        assert token.logits == whole.logits
        assert (token.logprobs is None) == (whole.logprobs is None)
        if token.logprobs is not None and whole.logprobs is not None:
            assert token.logprobs.top_ids == whole.logprobs.top_ids
            np.testing.assert_allclose(
                [token.logprobs.logprob, *token.logprobs.top_logprobs],
                [whole.logprobs.logprob, *whole.logprobs.top_logprobs],
                rtol=0,
                atol=LOGPROB_TOLERANCE,
            )


def bit_mask(token_ids: Iterable[int]) -> bytes:
    """A bit for each of the tokens, no longer than it takes."""
    bits = sum(1 << token_id for token_id in token_ids)
    return bits.to_bytes(-(-bits.bit_length() // 8), "little")


samplings = st.builds(
    Sampling,
    temperature=st.sampled_from([0.0, 0.1, 0.7, 1.0, 3.0, 1000.0]),
    top_p=st.sampled_from([1.0, 0.999, 0.9, 0.5, 0.01]),
    top_k=st.sampled_from([0, 0, 1, 2, 40, 300, 10_000]),
    min_p=st.sampled_from([0.0, 0.0, 0.05, 0.5, 1.0]),
    presence_penalty=st.sampled_from([0.0, 1.5, -2.0]),
    frequency_penalty=st.sampled_from([0.0, 0.5]),
    repetition_penalty=st.sampled_from([1.0, 1.0, 1.5, 0.5]),
    seed=st.integers(0, 2**63 - 1),
    num_logprobs=st.sampled_from([None, None, 0, 1, 5, 5000]),
)


@st.composite
def sample_requests(draw: st.DrawFn, vocab_size: int) -> SampleRow:
    sampling, token_id = draw(samplings), st.integers(0, vocab_size - 1)
    biases = draw(st.dictionaries(token_id, st.floats(-100, 100, width=32), max_size=4))
    sampling = msgspec.structs.replace(sampling, logit_bias=tuple(biases.items()))
    repeated = draw(st.sets(token_id, max_size=8)) if sampling.repetition_penalty != 1.0 else ()
    allowed = draw(st.just(b"") | st.sets(token_id, max_size=12).map(lambda ids: bit_mask({0, *ids})))
    history = draw(st.lists(token_id, max_size=8)) if sampling.needs_history else []
    return make_row(
        sampling,
        draw(st.integers(0, 1000)),
        history=np.array(history, "<i4").tobytes(),
        repeated=np.array(sorted(repeated), "<i4").tobytes(),
        forbidden=tuple(draw(st.sets(st.integers(1, max(1, vocab_size - 1)), max_size=3))) if vocab_size > 8 else (),
        target=draw(st.none() | token_id),
        allowed=allowed,
        want_logits=draw(st.booleans()),
    )


@st.composite
def cut_batches(draw: st.DrawFn) -> tuple[F32, list[SampleRow], list[int]]:
    """Logits of any spread, some with many equal values and some with tokens ruled out, cut into 1 to 16 shards."""
    vocab_size = draw(st.sampled_from([1, 2, 17, 100, 1500]))
    rows = draw(st.lists(sample_requests(vocab_size), min_size=1, max_size=4))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    logits_RV = rng.standard_normal((len(rows), vocab_size)) * draw(st.sampled_from([0.01, 1.0, 5.0, 50.0]))
    if draw(st.booleans()):
        logits_RV = logits_RV.round()
    if draw(st.booleans()):
        logits_RV[:, 1:][:, rng.random(vocab_size - 1) < 0.5] = -np.inf
    cuts = draw(st.sets(st.integers(1, vocab_size - 1), max_size=15)) if vocab_size > 1 else set[int]()
    return logits_RV.astype(np.float32), rows, sorted(cuts)


@given(cut_batches())
def test_shards_give_what_the_whole_gives(batch: tuple[F32, list[SampleRow], list[int]]) -> None:
    logits_RV, rows, cuts = batch
    found, _ = sample_cut(logits_RV, rows, cuts)
    check_equal(found, sample_rows(logits_RV.copy(), rows))


@pytest.mark.parametrize("cuts", [[], [700], [1, 2, 1999], list(range(125, 2000, 125))], ids=len)
@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(seed=1),
        Sampling(seed=1, min_p=0.02),
        Sampling(seed=1, top_k=60),
        Sampling(seed=1, top_p=0.9),
        Sampling(seed=1, top_k=900, top_p=0.8, min_p=0.01, temperature=1.3),
    ],
    ids=repr,
)
def test_many_draws_are_the_same_draws(sampling: Sampling, cuts: list[int]) -> None:
    logits_V = np.random.default_rng(3).standard_normal(2000).astype(np.float32) * 2
    rows = [make_row(sampling, index) for index in range(200)]
    logits_RV = np.tile(logits_V, (len(rows), 1))
    found, _ = sample_cut(logits_RV, rows, cuts)
    assert found == sample_rows(logits_RV, rows)
    assert len({token.token_id for token in found}) > 10


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(), Sampling(top_k=50), Sampling(top_p=0.99)], ids=repr)
@pytest.mark.parametrize("cuts", [[], [700], [1, 1999]], ids=len)
def test_what_is_not_allowed_is_never_drawn(sampling: Sampling, cuts: list[int]) -> None:
    wanted = {3, 699, 700, 1500}
    rows = [make_row(sampling, index, allowed=bit_mask(wanted)) for index in range(300)]
    logits_V = np.random.default_rng(4).standard_normal(2000).astype(np.float32)
    found, _ = sample_cut(np.tile(logits_V, (len(rows), 1)), rows, cuts)
    drawn = {token.token_id for token in found}
    assert drawn == ({max(wanted, key=lambda token_id: logits_V[token_id])} if sampling is GREEDY else wanted)


@pytest.mark.parametrize("num_allowed", [1, 2, 7, 60, 600])
@pytest.mark.parametrize(
    "sampling",
    [
        GREEDY,
        Sampling(),
        Sampling(temperature=0.3, min_p=0.05),
        Sampling(top_k=3),
        Sampling(top_k=40, top_p=0.8, logit_bias=((3, 2.0), (11, -1.0))),
        Sampling(top_k=1999, presence_penalty=1.0),
        Sampling(top_p=0.9),
    ],
    ids=repr,
)
def test_one_of_few_tokens_is_drawn_as_from_the_whole_row(sampling: Sampling, num_allowed: int) -> None:
    """A shard looks at all of its tokens, however few are allowed."""
    rng = np.random.default_rng(num_allowed)
    logits_RV = rng.standard_normal((200, 2000)).astype(np.float32) * 3
    rows = [
        make_row(
            msgspec.structs.replace(sampling, seed=index),
            index,
            allowed=bit_mask(set(rng.choice(2000, num_allowed, replace=False).tolist())),
            history=np.array([3, 3, 8], "<i4").tobytes(),
        )
        for index in range(len(logits_RV))
    ]
    found, _ = sample_cut(logits_RV, rows, [])
    assert sample_rows(logits_RV, rows) == found


def test_the_last_draw_is_never_one_without_weight() -> None:
    weights = np.array([0.1] * 7 + [0.0] * 5, np.float32)
    assert pick(weights, np.nextafter(1.0, 0.0)) == 6


@pytest.mark.parametrize("cuts", [[1], [2], [3], [4], [1, 2, 3, 4, 5]])
@pytest.mark.parametrize("sampling", [GREEDY, Sampling(top_k=2), Sampling(top_p=0.3)], ids=repr)
def test_ties_go_to_the_smaller_id_wherever_the_cut_is(sampling: Sampling, cuts: list[int]) -> None:
    rows = [make_row(sampling, index) for index in range(100)]
    logits_RV = np.tile(np.array([0, 1, 1, 1, 1, 1, 0, 0], np.float32), (len(rows), 1))
    found, _ = sample_cut(logits_RV, rows, cuts)
    assert {token.token_id for token in found} == ({1} if sampling is GREEDY else {1, 2})


def big_logits(num_rows: int = 1, *, spread: float = 4.0) -> F32:
    return np.random.default_rng(5).standard_normal((num_rows, BIG_VOCAB)).astype(np.float32) * np.float32(spread)


def test_greedy_is_one_exchange_of_a_few_bytes() -> None:
    _, lengths = sample_cut(big_logits(), [make_row(GREEDY)], [5000])
    assert len(lengths) == 1
    assert lengths[0] <= 16


def test_a_target_without_logprobs_needs_no_more_than_greedy() -> None:
    _, lengths = sample_cut(big_logits(), [make_row(Sampling(), target=7)], [5000])
    assert len(lengths) == 1


@pytest.mark.parametrize(
    ("sampling", "num_exchanges"),
    [
        (Sampling(), 3),
        (Sampling(min_p=0.1), 3),
        (Sampling(top_k=50), 2),
        (Sampling(top_p=0.9), 2),
        (Sampling(temperature=0.0, num_logprobs=5), 2),
        (Sampling(num_logprobs=5), 4),
    ],
    ids=repr,
)
def test_only_candidates_are_sent(sampling: Sampling, num_exchanges: int) -> None:
    _, lengths = sample_cut(big_logits(), [make_row(sampling)], [5000, 12_000])
    assert len(lengths) <= num_exchanges
    assert sum(lengths) < BIG_VOCAB / 10


def test_a_nucleus_beyond_the_first_candidates_is_asked_for() -> None:
    rows = [make_row(Sampling(top_p=0.8, seed=2), index) for index in range(20)]
    logits_RV = big_logits(20, spread=0.01)
    found, lengths = sample_cut(logits_RV, rows, [3000])
    assert found == sample_rows(logits_RV, rows)
    assert len(lengths) > 2


def test_rows_share_their_exchanges() -> None:
    samplings = [GREEDY, Sampling(), Sampling(top_k=3), Sampling(top_p=0.5), Sampling(min_p=0.2)]
    rows = [make_row(sampling, index) for index, sampling in enumerate(samplings * 4)]
    _, lengths = sample_cut(big_logits(len(rows)), rows, [10_000])
    assert len(lengths) == 3


def test_raw_logits_are_gathered_where_asked_for_and_nowhere_else() -> None:
    logits_RV = big_logits(2)
    history = np.array([4, 15_000], "<i4").tobytes()
    rows = [make_row(GREEDY), make_row(Sampling(presence_penalty=1.0), history=history, want_logits=True)]
    found, lengths = sample_cut(logits_RV, rows, [50])
    assert [token.logits for token in found] == [b"", logits_RV[1].tobytes()]
    assert sum(lengths) < 1.1 * logits_RV[1].nbytes


def test_no_rows_is_no_exchange() -> None:
    assert sample_cut(np.empty((0, 8), np.float32), [], [3]) == ([], [])


def test_shards_that_are_not_the_vocabulary_are_a_bug() -> None:
    with pytest.raises(AssertionError, match="vocabulary of 9"):
        run_ranks([sample_shard(np.zeros((1, 8), np.float32), [make_row(GREEDY)], first_id=0, vocab_size=9)])
