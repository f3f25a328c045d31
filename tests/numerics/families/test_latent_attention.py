"""Families with latent attention against Hugging Face transformers, and their splits against one worker."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shoal._native import supported_isas
from shoal.errors import ConfigError, ModelLoadError
from shoal.model.attention.kv_storage import kv_bytes_per_token
from shoal.model.formats.open_weights import open_weights
from shoal.model.shard.atoms import shard_atoms
from shoal.model.weights import WeightSource
from shoal.planner.split.shares import shard_parts
from shoal.protocol.stage_config import Precision
from tests.model.converted_gguf import convert
from tests.model.tiny_models import make_tiny_model
from tests.numerics.engines import (
    F32,
    PipelineExecutor,
    continuations,
    make_engine,
    make_executor,
    random_tokens,
    text_logits,
)
from tests.numerics.reference import load_reference, reference_logits

NUM_PROMPT, NUM_OUTPUT = 90, 64
TEXT = random_tokens(NUM_PROMPT)
TOLERANCE = 1e-4
YARN = {
    "rope_type": "yarn",
    "rope_theta": 1e4,
    "factor": 8.0,
    "mscale": 0.7,
    "mscale_all_dim": 0.7,
    "original_max_position_embeddings": 64,
}
GROUPS = {"topk_method": "group_limited_greedy"}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "deepseek v3": ("deepseek_v3", {"rope_parameters": YARN}),
    "deepseek v3 with two magnitudes": ("deepseek_v3", {"rope_parameters": {**YARN, "mscale_all_dim": 1.0}}),
    "deepseek v3 without compressed queries": ("deepseek_v3", {"q_lora_rank": None, "rope_interleave": False}),
    "deepseek v2 with groups": ("deepseek_v2", {**GROUPS, "rope_parameters": YARN}),
    "deepseek v2 without groups and compressed queries": ("deepseek_v2", {"q_lora_rank": None}),
    "glm 4.7 flash": ("glm4_moe_lite", {"n_group": 1, "topk_group": 1}),
}


@pytest.mark.parametrize("case", CASES)
def test_family_agrees_with_transformers(case: str, tmp_path: Path) -> None:
    family, settings = CASES[case]
    directory = make_tiny_model(family, tmp_path, **settings)
    prompt = TEXT
    engine = make_engine(make_executor(open_weights(directory)))
    (logits,) = text_logits(engine, [prompt])
    (answer,) = continuations(engine, [prompt], max_tokens=NUM_OUTPUT)
    expected = reference_logits(load_reference(directory), prompt + answer)
    np.testing.assert_allclose(logits, expected[:NUM_PROMPT], rtol=0, atol=TOLERANCE)
    assert answer == expected[NUM_PROMPT - 1 : -1].argmax(axis=-1).tolist()
    assert len(set(answer)) >= 20


@pytest.mark.parametrize("case", ["deepseek v3", "deepseek v2 with groups", "glm 4.7 flash"])
def test_a_gguf_is_the_same_model(case: str, tmp_path: Path) -> None:
    family, settings = CASES[case]
    directory = make_tiny_model(family, tmp_path, **settings)
    expected = logits_of(make_executor(open_weights(directory)))
    got = logits_of(make_executor(open_weights(convert(directory, tmp_path / "model.gguf"))))
    np.testing.assert_allclose(got, expected, rtol=0, atol=TOLERANCE)


def test_a_gguf_from_before_latent_attention(tmp_path: Path) -> None:
    path = convert(make_tiny_model("deepseek_v3", tmp_path), tmp_path / "model.gguf")
    path.write_bytes(path.read_bytes().replace(b"attention.key_length_mla", b"attention.key_length_old"))
    with pytest.raises(ModelLoadError, match="convert it again"):
        open_weights(path)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> WeightSource:
    """With heads that can be quantized."""
    sizes = {"qk_nope_head_dim": 32, "kv_lora_rank": 64, "q_lora_rank": 64, "v_head_dim": 32}
    return open_weights(make_tiny_model("deepseek_v3", tmp_path_factory.mktemp("latent"), **sizes))


def logits_of(executor: PipelineExecutor, **chunks: int) -> F32:
    (logits,) = text_logits(make_engine(executor, **chunks), [TEXT])
    return logits


@pytest.mark.parametrize("precision", ["fp32", "int4"])
def test_pipelines_chunks_and_instruction_sets_change_no_bit(source: WeightSource, precision: Precision) -> None:
    whole = logits_of(make_executor(source, precision=precision))
    np.testing.assert_array_equal(logits_of(make_executor(source, precision=precision, cuts=(1, 3))), whole)
    np.testing.assert_array_equal(logits_of(make_executor(source, precision=precision), prefill_chunk_tokens=17), whole)
    for isa in supported_isas()[:2]:
        np.testing.assert_array_equal(logits_of(make_executor(source, precision=precision, isa=isa)), whole)


@pytest.mark.parametrize(("shares", "expert_shares"), [((2, 1), None), ((1, 1, 1), (5, 2, 1))])
def test_shards(source: WeightSource, shares: tuple[int, ...], expert_shares: tuple[int, ...] | None) -> None:
    """Each has some of the four heads and all latent rows."""
    parts = shard_parts(shard_atoms(source.config), shares, expert_shares=expert_shares)
    assert all(first < last for first, last in (part.kv_heads for part in parts))
    executor = make_executor(source, shares=shares, expert_shares=expert_shares)
    np.testing.assert_allclose(logits_of(executor), logits_of(make_executor(source)), rtol=0, atol=TOLERANCE)


def test_cached_and_again_in_company(source: WeightSource) -> None:
    engine = make_engine(make_executor(source, precision="int4"))
    other = random_tokens(41, seed=3)
    (alone,) = continuations(engine, [TEXT], max_tokens=20)
    again, _ = continuations(engine, [TEXT, other], max_tokens=20)
    assert engine.stats().prefix_hit_tokens > 0
    assert again == alone


def test_the_cache_holds_compressed_rows(source: WeightSource) -> None:
    """Keys and values of 64 latent and 8 rotated dimensions, in place of 4 heads of 40 and 32."""
    assert kv_bytes_per_token(source.config, 1, np.float32) == 2 * (64 + 8) * 4


def test_the_onnx_form_says_that_it_has_none(source: WeightSource) -> None:
    with pytest.raises(ConfigError, match="latent attention, without an ONNX form"):
        make_executor(source, native=False)


def test_a_setting_that_is_not_supported(tmp_path: Path) -> None:
    directory = make_tiny_model("deepseek_v3", tmp_path)
    config = json.loads((directory / "config.json").read_text())
    for key, value in (("attention_bias", True), ("kv_lora_rank", 0), ("kv_lora_rank", 33)):
        (directory / "config.json").write_text(json.dumps({**config, key: value}))
        with pytest.raises(ModelLoadError):
            open_weights(directory)
