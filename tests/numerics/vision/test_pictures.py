"""Prompts with pictures against transformers: whole, in chunks, from cached blocks, split, computed again.

Shapes: T tokens, V vocabulary.
"""

from __future__ import annotations

from threading import BrokenBarrierError

import numpy as np
import pytest

from shoal.bench.generation import generate
from shoal.model.formats.open_weights import open_weights
from tests.model.tiny_models import VOCAB_SIZE
from tests.model.tiny_vision import MAKERS, make_tiny_vision
from tests.numerics.engines import make_engine, make_executor
from tests.numerics.vision.picture_models import SeenPrompt, answers

TOLERANCE = 1e-4
"""Logits are up to 5: fp32 sums in another order, in the vision part and in the layers."""
NUM_OUTPUT = 64


@pytest.fixture(scope="module", params=MAKERS)
def seen(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> SeenPrompt:
    directory = make_tiny_vision(request.param, tmp_path_factory.mktemp(request.param))
    return SeenPrompt(directory, VOCAB_SIZE + 1, request.param)


@pytest.fixture(scope="module")
def whole(seen: SeenPrompt) -> list[int]:
    """The answer of one stage to the whole prompt at once, which is transformers' own."""
    engine = make_engine(make_executor(open_weights(seen.model)))
    request = seen.request("whole", max_tokens=NUM_OUTPUT, want_logits=True)
    (result,) = generate(engine, [request], concurrency=1)
    expected = seen.expected(request.prompt_ids, result.token_ids)[len(request.prompt_ids) - 1 : -1]
    logits = np.stack([np.frombuffer(row, "<f4") for row in result.logits])
    np.testing.assert_allclose(logits, expected, rtol=0, atol=TOLERANCE)
    assert result.token_ids == expected.argmax(axis=-1).tolist()
    assert len(set(result.token_ids)) > 5
    return result.token_ids


def test_an_answer_is_that_of_transformers(whole: list[int]) -> None:
    assert len(whole) == NUM_OUTPUT


@pytest.mark.parametrize(
    ("cuts", "shares", "native"), [((2,), (1,), None), ((), (1, 1), None), ((), (1,), False), ((1,), (1, 1), False)]
)
def test_chunks_splits_and_forms_give_the_same(
    cuts: tuple[int, ...], shares: tuple[int, ...], native: bool | None, seen: SeenPrompt, whole: list[int]
) -> None:
    executor = make_executor(open_weights(seen.model), cuts=cuts, shares=shares, native=native)
    engine = make_engine(executor, prefill_chunk_tokens=16)
    if seen.vision.num_deep_layers and native is False:
        with pytest.raises((ValueError, BrokenBarrierError)):  # of the shard that waits for the other
            answers(engine, [seen.request("chunks", max_tokens=1)])
        return
    assert answers(engine, [seen.request("chunks", max_tokens=NUM_OUTPUT)]) == [whole]
    assert max(executor.step_sizes) <= 32


def test_cached_blocks_are_found_by_the_pictures(seen: SeenPrompt, whole: list[int]) -> None:
    engine = make_engine(make_executor(open_weights(seen.model)))
    answers(engine, [seen.request("first", max_tokens=1)])
    (again,) = generate(engine, [seen.request("again", max_tokens=NUM_OUTPUT)], concurrency=1)
    assert again.token_ids == whole
    hits = engine.stats().prefix_hit_tokens
    assert hits >= 16
    alone = make_engine(make_executor(open_weights(seen.model)))
    other = answers(engine, [seen.request("other", (2, 1), max_tokens=NUM_OUTPUT)])
    assert other == answers(alone, [seen.request("other", (2, 1), max_tokens=NUM_OUTPUT)])
    assert other != [whole]
    assert engine.stats().prefix_hit_tokens - hits < 16, "no block with another picture is reused"


def test_preempted_requests_are_computed_again(seen: SeenPrompt, whole: list[int]) -> None:
    """Beside texts, which take their blocks."""
    engine = make_engine(make_executor(open_weights(seen.model)), num_blocks=17)
    requests = [seen.request(f"seen-{index}", max_tokens=NUM_OUTPUT) for index in range(3)]
    assert answers(engine, requests) == [whole] * 3
    assert engine.stats().num_preemptions
