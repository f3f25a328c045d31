"""Families with recurrent layers against Hugging Face transformers, as GGUF files, and split.

TOLERANCE: as in test_dense_families.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from shoal.errors import ModelLoadError
from shoal.model.formats.open_weights import open_weights
from shoal.model.recurrence.delta_net import DeltaNetConfig
from shoal.model.recurrence.mamba import MambaConfig
from shoal.model.shard.atoms import shard_atoms
from shoal.model.shard.source import ShardSource
from shoal.planner.split.shares import shard_parts
from tests.model.converted_gguf import convert
from tests.model.recurrent_families import RECURRENT_FAMILIES
from tests.model.tiny_models import make_tiny_model
from tests.numerics.conftest import MakeSource
from tests.numerics.engines import continuations, make_engine, make_executor, random_tokens
from tests.numerics.families.test_dense_families import TEXT, WEIGHTS, assert_agrees, assert_close, logits_of
from tests.numerics.reference import load_reference, reference_logits

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "lfm2 with biases and four taps": ("lfm2", {"conv_bias": True, "conv_L_cache": 4}),
    "lfm2 with experts and no bias of theirs": ("lfm2_moe", {"use_expert_bias": False, "norm_topk_prob": False}),
    "qwen3.5 with odd heads": (
        "qwen3_5_text",
        {"linear_key_head_dim": 20, "linear_value_head_dim": 36, "linear_num_value_heads": 6, "head_dim": 32},
    ),
    "granite hybrid without experts": ("granitemoehybrid", {"num_local_experts": 0, "shared_intermediate_size": 128}),
    "granite hybrid with groups and rope": (
        "granitemoehybrid",
        {
            "mamba_n_groups": 2,
            "position_embedding_type": "rope",
            "mamba_conv_bias": False,
            "mamba_proj_bias": True,
            "mamba_d_conv": 3,
        },
    ),
    "granite hybrid of attention alone": ("granitemoehybrid", {"layer_types": ["full_attention"] * 4}),
    "nemotron-h without experts": (
        "nemotron_h",
        {
            "layers_block_type": ["linear_attention", "mlp", "full_attention", "mlp", "linear_attention"],
            "use_bias": True,
            "mlp_bias": True,
        },
    ),
}
CASES = {**{family: (family, {}) for family in RECURRENT_FAMILIES}, **VARIANTS}


@pytest.mark.parametrize("case", CASES)
def test_a_family_agrees_with_transformers(case: str, tmp_path: Path) -> None:
    """In chunks, and again from cached blocks and snapshots."""
    family, settings = CASES[case]
    assert_agrees(make_tiny_model(family, tmp_path, **settings))


NOT_IN_GGUF = ("lfm2 with biases and four taps", "lfm2 with experts and no bias of theirs")


@pytest.mark.parametrize("case", [case for case in CASES if case not in NOT_IN_GGUF])
def test_a_gguf_is_the_same_model(case: str, tmp_path: Path) -> None:
    family, settings = CASES[case]
    directory = make_tiny_model(family, tmp_path, **settings)
    expected = reference_logits(load_reference(directory), TEXT)
    assert_close(logits_of(make_executor(open_weights(convert(directory, tmp_path / "model.gguf")))), expected)


def test_shards_of_a_file_whose_value_heads_are_in_turn(tmp_path: Path) -> None:
    """A shard has some value heads of every key head then, or none."""
    directory = make_tiny_model("qwen3_5_text", tmp_path)
    gguf = convert(directory, tmp_path / "model.gguf")
    whole = logits_of(make_executor(open_weights(directory)))
    source = open_weights(gguf)
    for shares, heads in (((2, 1), [2, 2]), ((1, 1), [2, 2]), ((1, 1, 1), [2, 0, 2])):
        parts = shard_parts(shard_atoms(source.config), shares)
        own = [ShardSource(source, part).config.recurrence for part in parts]
        assert [one.num_value_heads for one in own if isinstance(one, DeltaNetConfig)] == heads
        assert_close(logits_of(make_executor(source, shares=shares)), whole)


def test_heads_of_one_group_are_dealt_out(tiny_source: MakeSource) -> None:
    """Of four pieces of two heads, with a norm over all of them that the shards share."""
    config = tiny_source("granitemoehybrid").config
    parts = shard_parts(shard_atoms(config), (2, 1, 1))
    own = [ShardSource(tiny_source("granitemoehybrid"), part).config.recurrence for part in parts]
    shards = [recurrence for recurrence in own if isinstance(recurrence, MambaConfig)]
    assert [shard.num_heads for shard in shards] == [4, 2, 2]
    assert {shard.shared_norm for shard in shards} == {(128, config.norm_epsilon)}


@pytest.mark.parametrize("family", RECURRENT_FAMILIES)
def test_splits(family: str, tiny_source: MakeSource) -> None:
    """Whole stages have the same bits; of three shards of two key heads, one has no attention."""
    source = tiny_source(family)
    whole = logits_of(make_executor(source))
    assert np.array_equal(logits_of(make_executor(source, cuts=(1, 2))), whole)
    for shares in ((1, 1), (2, 1), (1, 1, 1)):
        assert_close(logits_of(make_executor(source, shares=shares)), whole)
    assert_close(logits_of(make_executor(source, cuts=(2,), shares=(2, 1))), whole)


@pytest.mark.parametrize("family", RECURRENT_FAMILIES)
def test_preempted_requests_go_on_with_the_same_tokens(family: str, tiny_source: MakeSource) -> None:
    """Blocks for two of three requests."""
    executor = make_executor(tiny_source(family))
    prompts = [random_tokens(40, seed=seed) for seed in range(3)]
    crowded = make_engine(executor, num_blocks=12)
    answers = continuations(crowded, prompts, max_tokens=40)
    assert crowded.stats().num_preemptions > 0
    assert answers == continuations(make_engine(executor), prompts, max_tokens=40)


def test_stacked_experts_of_qwen3_5(tmp_path: Path) -> None:
    """As its published files have them: outputs before inputs, gate above up."""
    directory = make_tiny_model("qwen3_5_moe_text", tmp_path)
    expected = reference_logits(load_reference(directory), TEXT)
    tensors = load_file(directory / WEIGHTS)
    stacked = {name: values for name, values in tensors.items() if ".experts." not in name}
    for layer in range(4):
        prefix = f"model.layers.{layer}.mlp.experts."
        parts = [
            [tensors[f"{prefix}{expert}.{part}_proj.weight"] for expert in range(8)] for part in ("gate", "up", "down")
        ]
        gate, up, down = map(np.stack, parts)
        stacked |= {f"{prefix}gate_up_proj": np.concatenate([gate, up], axis=1), f"{prefix}down_proj": down}
    save_file(stacked, directory / WEIGHTS, metadata={"format": "pt"})
    assert_close(logits_of(make_executor(open_weights(directory))), expected)


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("granitemoehybrid", {"time_step_limit": (0.1, 2.0)}),
        ("granitemoehybrid", {"mamba_d_conv": 5}),
        ("nemotron_h", {"moe_latent_size": 32}),
    ],
)
def test_what_is_not_computed_is_refused(family: str, settings: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match=next(iter(settings))):
        open_weights(make_tiny_model(family, tmp_path, **settings))
