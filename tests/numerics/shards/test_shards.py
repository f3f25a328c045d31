"""N shards = 1 shard: every family, cut by equal and unequal shares, alone and in pipelines.

TOLERANCE: the shards' terms of `o` and `down` are added in another order than one product adds them, 64 to 128 of them
a row in fp32, in each of 4 layers; logits are up to 7.
"""

import os
from pathlib import Path

import numpy as np
import pytest

from shoal.comm.groups.shm_group import SharedMemoryGroup, create_group_memory
from shoal.comm.groups.timed_group import TimedGroup
from shoal.errors import ConfigError
from shoal.model.formats.open_weights import open_weights
from shoal.model.shard.atoms import shard_atoms
from shoal.model.weights import WeightSource
from shoal.planner.split.shares import shard_parts
from shoal.protocol.language_messages import Sampling
from tests.model.tiny_models import EXPERT_FAMILIES, FAMILIES, MORE_FAMILIES, make_tiny_gguf
from tests.numerics.conftest import MakeSource
from tests.numerics.engines import (
    PipelineExecutor,
    continuations,
    make_engine,
    make_executor,
    make_group,
    random_tokens,
    stage_config,
    text_logits,
)

TOLERANCE = 1e-4
TEXT = random_tokens(90)
SAMPLED = Sampling(temperature=0.9, top_k=40, top_p=0.9, seed=11)


def whole_logits(source: WeightSource) -> np.ndarray:
    (logits,) = text_logits(make_engine(make_executor(source)), [TEXT])
    return logits


@pytest.mark.parametrize("family", FAMILIES + MORE_FAMILIES + EXPERT_FAMILIES)
@pytest.mark.parametrize("shares", [(1, 1), (2, 1), (1, 1, 1)])
def test_shards_of_every_family(family: str, shares: tuple[int, ...], tiny_source: MakeSource) -> None:
    """Three shards and two KV heads: one shard has no attention."""
    source = tiny_source(family)
    executor = make_executor(source, shares=shares)
    (logits,) = text_logits(make_engine(executor), [TEXT])
    np.testing.assert_allclose(logits, whole_logits(source), rtol=0, atol=TOLERANCE)


@pytest.mark.sample(every=3)
@pytest.mark.parametrize("family", FAMILIES + MORE_FAMILIES + EXPERT_FAMILIES)
def test_pipelines_of_every_family(family: str, tiny_source: MakeSource) -> None:
    """Whole stages come to the same bits, sharded ones to the same sums in another order."""
    source = tiny_source(family)
    whole = whole_logits(source)
    (logits,) = text_logits(make_engine(make_executor(source, cuts=(2,))), [TEXT])
    np.testing.assert_array_equal(logits, whole)
    (logits,) = text_logits(make_engine(make_executor(source, cuts=(2,), shares=(1, 1))), [TEXT])
    np.testing.assert_allclose(logits, whole, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("shares", [(1, 1), (3, 1)])
def test_drawn_tokens_are_the_same(shares: tuple[int, ...], tiny_source: MakeSource) -> None:
    source = tiny_source("llama")
    prompts = [random_tokens(length, seed=length) for length in (20, 5, 33)]
    whole = continuations(make_engine(make_executor(source)), prompts, max_tokens=24, sampling=SAMPLED)
    split = continuations(make_engine(make_executor(source, shares=shares)), prompts, max_tokens=24, sampling=SAMPLED)
    assert split == whole
    assert len({token for tokens in whole for token in tokens}) > 20


@pytest.mark.parametrize("quant", ["Q4_0", "Q4_1", "Q8_0"])
def test_shards_of_quantized_files(quant: str, tmp_path: Path) -> None:
    """8-bit activations: a last bit that differs may move one of them by a step, hence logits by more than in fp32."""
    source = open_weights(make_tiny_gguf(tmp_path, quant=quant))
    logits = [
        text_logits(make_engine(make_executor(source, shares=shares, precision="auto")), [TEXT])[0]
        for shares in ((1,), (1, 1))
    ]
    np.testing.assert_allclose(logits[1], logits[0], rtol=0, atol=0.5)
    assert (logits[1].argmax(axis=-1) == logits[0].argmax(axis=-1)).mean() > 0.9


@pytest.mark.parametrize("switch_bytes", [0, 1 << 40])
def test_sums_inside_the_native_call_have_the_same_bits(switch_bytes: int, tiny_source: MakeSource) -> None:
    native = pytest.importorskip("shoal._native")
    source, fd = tiny_source("llama"), create_group_memory(3)
    parts = shard_parts(shard_atoms(source.config), (2, 1, 1))
    groups = [
        TimedGroup(SharedMemoryGroup(fd, rank=rank, size=3, generation=1, switch_bytes=switch_bytes))
        for rank in range(3)
    ]
    os.close(fd)
    stages = (make_group(source, stage_config(source), parts, groups=own) for own in ((), groups))
    in_python, inside = (text_logits(make_engine(PipelineExecutor([stage])), [TEXT]) for stage in stages)
    np.testing.assert_array_equal(inside[0], in_python[0])
    for group in groups:
        assert group.take_wait_s() > 0.0
        assert isinstance(group.sum_within(1.0), native.GroupSum)
        group.close()


def test_more_shards_than_pieces_are_refused(tiny_source: MakeSource) -> None:
    with pytest.raises(ConfigError, match="give at most tp=4"):
        make_executor(tiny_source("llama"), shares=(1,) * 5)
