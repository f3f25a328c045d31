"""Whole experts dealt out over shards = 1 shard, whoever holds which of them.

TOLERANCE: see test_shards.
"""

from dataclasses import replace

import numpy as np
import pytest

from shoal.model.decoder.forced_form import ForcedForm
from shoal.model.decoder.stage import Stage
from shoal.model.shard.atoms import shard_atoms
from shoal.planner.split.shares import shard_parts
from shoal.protocol.stage_config import ExpertSpan, LayerExperts, ShardPart
from tests.model.tiny_models import EXPERT_FAMILIES
from tests.numerics.conftest import MakeSource
from tests.numerics.engines import (
    F32,
    PipelineExecutor,
    make_engine,
    make_executor,
    make_group,
    random_tokens,
    stage_config,
    text_logits,
)

TOLERANCE = 1e-4
TEXT, OTHER = random_tokens(90), random_tokens(37, seed=5)
EVERY_FAMILY = (
    *EXPERT_FAMILIES,
    "ernie4_5_moe",
    "hunyuan_v1_moe",
    "phimoe",
    "minimax_m2",
    "llama4_text",
    "granitemoeshared",
)
PLACEMENTS = (((1, 1), (3, 1)), ((2, 1), (1, 3)), ((1, 1, 1), (5, 2, 1)))
"""Shares of everything, and of experts. With three shards and two KV heads, one has experts and no attention."""


def whole_logits(source, text: list[int] = TEXT) -> F32:
    (logits,) = text_logits(make_engine(make_executor(source)), [text])
    return logits


@pytest.mark.sample(every=2)
@pytest.mark.parametrize("family", EVERY_FAMILY)
@pytest.mark.parametrize(("shares", "expert_shares"), PLACEMENTS)
def test_unequal_shares_of_every_family(
    shares: tuple[int, ...], expert_shares: tuple[int, ...], family: str, tiny_source: MakeSource
) -> None:
    source = tiny_source(family)
    executor = make_executor(source, shares=shares, expert_shares=expert_shares)
    (logits,) = text_logits(make_engine(executor), [TEXT])
    whole = whole_logits(source)
    np.testing.assert_allclose(logits, whole, rtol=0, atol=TOLERANCE * max(1.0, float(np.abs(whole).max())))


@pytest.mark.parametrize("family", ["qwen2_moe", "gpt_oss"])
def test_the_onnx_form(family: str, tiny_source: MakeSource) -> None:
    source = tiny_source(family)
    executor = make_executor(source, shares=(1, 1), expert_shares=(3, 1), native=False)
    (logits,) = text_logits(make_engine(executor), [TEXT[:20]])
    np.testing.assert_allclose(logits, whole_logits(source, TEXT[:20]), rtol=0, atol=TOLERANCE)


def copied_parts(source, held: tuple[tuple[LayerExperts, ...], ...]) -> list[ShardPart]:
    parts = shard_parts(shard_atoms(source.config), (1, 1), expert_shares=(1, 1))
    return [replace(part, experts=experts) for part, experts in zip(parts, held, strict=True)]


LISTED = (
    (
        (ExpertSpan(0, 1), ExpertSpan(3, 5), ExpertSpan(7, 8, 3, 0b101)),
        (ExpertSpan(0, 8),),
        (ExpertSpan(0, 8, 2, 0b10),),
        (),
    ),
    (
        (ExpertSpan(1, 3), ExpertSpan(5, 7), ExpertSpan(7, 8, 3, 0b010)),
        (),
        (ExpertSpan(0, 8, 2, 0b01),),
        (ExpertSpan(0, 8),),
    ),
)
"""Of two shards: lists, one layer's experts all on the first and one's on the second, and copies that take turns."""


@pytest.mark.parametrize("family", ["mixtral", "gpt_oss"])
def test_any_placement_with_copies(family: str, tiny_source: MakeSource) -> None:
    source = tiny_source(family)
    executor = PipelineExecutor([make_group(source, stage_config(source), copied_parts(source, LISTED))])
    (alone,) = text_logits(make_engine(executor), [TEXT])
    np.testing.assert_allclose(alone, whole_logits(source), rtol=0, atol=TOLERANCE)
    in_company = text_logits(make_engine(executor), [OTHER, TEXT, OTHER[::-1]])[1]
    np.testing.assert_array_equal(in_company, alone)


def test_rows_are_counted_by_every_shard_alike(tiny_source: MakeSource) -> None:
    """Each row chooses three experts in each layer, and every shard sees all of them."""
    source = tiny_source("qwen3_moe")
    parts = copied_parts(source, LISTED)
    group = make_group(source, stage_config(source), parts)
    text_logits(make_engine(PipelineExecutor([group])), [TEXT])
    counts = [shard.expert_rows() for shard in group.shards]
    assert counts[0] == counts[1]
    dense = set(source.config.experts.dense_layers)
    assert [sum(layer) for layer in counts[0]] == [0 if i in dense else 3 * len(TEXT) for i in range(4)]
    assert len({tuple(layer) for layer in counts[0]}) > 1


def test_a_shard_holds_its_own_experts_alone(tiny_source: MakeSource) -> None:
    source = tiny_source("mixtral")
    parts = shard_parts(shard_atoms(source.config), (1, 1), expert_shares=(3, 1))
    sizes = [shard.weight_bytes for shard in make_group(source, stage_config(source), parts).shards]
    experts = source.config.experts
    expert_bytes = 3 * experts.columns * source.config.hidden_size * 4 * source.config.num_layers
    assert sizes[0] - sizes[1] == pytest.approx(expert_bytes * experts.num_experts / 2, rel=0.02)


def test_copies_need_the_extension(tiny_source: MakeSource) -> None:
    source = tiny_source("mixtral")
    config = replace(stage_config(source), part=copied_parts(source, LISTED)[0])
    with pytest.raises(ValueError, match="copies of experts need the native extension"):
        Stage(source, config, form=ForcedForm(native=False))
