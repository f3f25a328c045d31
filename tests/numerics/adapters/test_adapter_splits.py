"""Rows of several adapters and of none in the same steps: each has the bits that it has alone, however it is cut."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shoal.bench.generation import FinishedRequest
from shoal.model.formats.open_weights import open_weights
from tests.model.tiny_adapters import tiny_adapter
from tests.model.tiny_models import make_tiny_model
from tests.numerics.adapters.adapted import BASE, adapted_engine, answers
from tests.numerics.engines import make_engine, make_executor, random_tokens

PROMPTS = [random_tokens(length, seed=length) for length in (40, 21, 33, 50, 18, 27)]
ADAPTERS = (1, BASE, 0, 2, 0, BASE)
SHARD_TOLERANCE = 1e-4
"""of logits up to 7: sums over shards have another order"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model("llama", tmp_path_factory.mktemp("models") / "llama")


@pytest.fixture(scope="module")
def adapters(model: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Of all projections, of some with other ranks, and of the MLP's first ones alone."""
    folder = tmp_path_factory.mktemp("adapters")
    return [
        tiny_adapter(model, folder / "all", seed=1),
        tiny_adapter(model, folder / "some", seed=2, rank=9, targets=("q_proj", "o_proj", "down_proj")),
        tiny_adapter(model, folder / "mlp", seed=3, rank=17, targets=("gate_proj", "v_proj")),
    ]


def alone(model: Path, adapters: Sequence[Path], **options: Any) -> list[FinishedRequest]:
    """Each prompt by itself in an engine of its own kind."""
    engine = adapted_engine(model, adapters, **options)
    return [answers(engine, [prompt], [adapter])[0] for prompt, adapter in zip(PROMPTS, ADAPTERS, strict=True)]


def same_bits(first: Sequence[FinishedRequest], second: Sequence[FinishedRequest]) -> bool:
    return [one.token_ids for one in first] == [one.token_ids for one in second] and all(
        one.logits == other.logits for one, other in zip(first, second, strict=True)
    )


@pytest.mark.parametrize("precision", ["fp32", "int8", "int4"])
def test_a_row_has_the_same_bits_in_any_company(model: Path, adapters: list[Path], precision: str) -> None:
    together = answers(adapted_engine(model, adapters, precision=precision), PROMPTS, ADAPTERS)
    assert same_bits(together, alone(model, adapters, precision=precision))


@pytest.mark.parametrize("precision", ["fp32", "int4"])
def test_rows_without_an_adapter_have_the_bits_of_a_model_without(
    model: Path, adapters: list[Path], precision: Any
) -> None:
    together = answers(adapted_engine(model, adapters, precision=precision), PROMPTS, ADAPTERS)
    plain = make_engine(make_executor(open_weights(model), precision=precision))
    places = [place for place, adapter in enumerate(ADAPTERS) if adapter == BASE]
    without = [answers(plain, [PROMPTS[place]], [BASE])[0] for place in places]
    assert same_bits([together[place] for place in places], without)


@pytest.mark.parametrize(
    "limits", [{"prefill_chunk_tokens": 16}, {"num_blocks": 13}, {"max_step_tokens": 24, "prefill_chunk_tokens": 24}]
)
def test_chunks_and_preemption_change_no_bits(model: Path, adapters: list[Path], limits: dict[str, int]) -> None:
    engine = adapted_engine(model, adapters, limits=limits)
    assert same_bits(answers(engine, PROMPTS, ADAPTERS), alone(model, adapters))
    assert ("num_blocks" in limits) == (engine.stats().num_preemptions > 0)


def test_a_pipeline_changes_no_bits(model: Path, adapters: list[Path]) -> None:
    engine = adapted_engine(model, adapters, cuts=(1, 3))
    assert same_bits(answers(engine, PROMPTS, ADAPTERS), alone(model, adapters))


@pytest.mark.parametrize("shares", [(1, 1), (3, 1), (9, 1)])
def test_shards_agree_with_the_whole(model: Path, adapters: list[Path], shares: tuple[int, ...]) -> None:
    options: dict[str, Any] = {"shares": shares, "cuts": (2,)}
    split = answers(adapted_engine(model, adapters, **options), PROMPTS, ADAPTERS)
    for one, whole in zip(split, alone(model, adapters), strict=True):
        assert one.token_ids == whole.token_ids
        for row, expected in zip(one.logits, whole.logits, strict=True):
            assert np.abs(np.frombuffer(row, "<f4") - np.frombuffer(expected, "<f4")).max() < SHARD_TOLERANCE
    assert same_bits(split, alone(model, adapters, **options))


def test_cached_blocks_of_one_adapter_are_used_for_no_other(model: Path, adapters: list[Path]) -> None:
    prompt, numbers = random_tokens(50), (0, BASE, 1, 2)
    shared = adapted_engine(model, adapters)
    first = [answers(shared, [prompt], [number])[0] for number in numbers]
    assert shared.stats().prefix_hit_tokens == 0
    again = [answers(shared, [prompt], [number])[0] for number in numbers]
    assert shared.stats().prefix_hit_tokens == 4 * 48
    fresh = [answers(adapted_engine(model, adapters), [prompt], [number])[0] for number in numbers]
    assert same_bits(first, fresh)
    assert same_bits(again, fresh)
    assert len({tuple(one.token_ids) for one in fresh}) == len(numbers)
