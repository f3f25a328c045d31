"""Gemma 3n and 4 against Hugging Face transformers, and their splits against one worker.

Layers have inputs of their own, the last ones the keys of earlier ones, and Gemma 3n several residual streams.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from shoal._native import supported_isas
from shoal.errors import ConfigError, ModelLoadError
from shoal.model.decoder.blocks import decoder_blocks, layer_kv_bytes
from shoal.model.formats.open_weights import open_weights
from shoal.model.packed.pack import packed_bytes
from shoal.model.weights import WeightSource
from shoal.planner.split.balance import balance_layers, check_first_layers, last_cut, stage_costs
from shoal.protocol.stage_config import Precision
from tests.model.converted_gguf import convert
from tests.model.tiny_models import INPUT_FAMILIES, VOCAB_SIZE, make_tiny_model
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
"""of the largest logit: fp32 sums in another order"""
EXPERTS = {
    "enable_moe_block": True,
    "num_experts": 8,
    "top_k_experts": 3,
    "moe_intermediate_size": 96,
    "use_double_wide_mlp": False,
    "num_kv_shared_layers": 0,
}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "gemma3n": ("gemma3n_text", {}),
    "gemma3n with two streams": ("gemma3n_text", {"altup_num_inputs": 2, "altup_active_idx": 1}),
    "gemma3n with unlike MLPs": ("gemma3n_text", {"intermediate_size": [128, 96, 128, 64, 96, 128]}),
    "gemma4": ("gemma4_text", {}),
    "gemma4 without inputs of layers": ("gemma4_text", {"hidden_size_per_layer_input": 0, "num_kv_shared_layers": 0}),
    "gemma4 with values of their own": ("gemma4_text", {"attention_k_eq_v": False, "num_kv_shared_layers": 0}),
    "gemma4 with experts": ("gemma4_text", EXPERTS),
}


def logits_of(executor: PipelineExecutor, **chunks: int) -> F32:
    (logits,) = text_logits(make_engine(executor, **chunks), [TEXT])
    return logits


def assert_close(got: F32, want: F32) -> None:
    np.testing.assert_allclose(got, want, rtol=0, atol=TOLERANCE * float(np.abs(want).max()))


@pytest.mark.parametrize("case", CASES)
def test_family_agrees_with_transformers(case: str, tmp_path: Path) -> None:
    """The second answer comes in chunks and from cached blocks."""
    family, settings = CASES[case]
    directory = make_tiny_model(family, tmp_path, **settings)
    executor = make_executor(open_weights(directory))
    engine = make_engine(executor, prefill_chunk_tokens=23)
    (answer,) = continuations(engine, [TEXT], max_tokens=NUM_OUTPUT)
    (again,) = continuations(engine, [TEXT], max_tokens=NUM_OUTPUT)
    assert engine.stats().prefix_hit_tokens >= 64
    expected = reference_logits(load_reference(directory), TEXT + answer)
    assert_close(logits_of(executor), expected[:NUM_PROMPT])
    assert again == answer == expected[NUM_PROMPT - 1 : -1].argmax(axis=-1).tolist()


@pytest.mark.parametrize(
    "case",
    ["gemma3n", "gemma4", "gemma4 without inputs of layers", "gemma4 with values of their own", "gemma4 with experts"],
)
def test_a_gguf_is_the_same_model(case: str, tmp_path: Path) -> None:
    family, settings = CASES[case]
    directory = make_tiny_model(family, tmp_path, **settings)
    expected = logits_of(make_executor(open_weights(directory)))
    assert_close(logits_of(make_executor(open_weights(convert(directory, tmp_path / "model.gguf")))), expected)


WIDE = {"hidden_size": 128, "head_dim": 32, "hidden_size_per_layer_input": 32}
"""sizes that can be quantized"""
SPLIT: dict[str, dict[str, Any]] = {
    "gemma3n_text": {**WIDE, "laurel_rank": 32},
    "gemma4_text": {**WIDE, "num_key_value_heads": 4, "num_global_key_value_heads": 2, "global_head_dim": 64},
}


@pytest.fixture(scope="module", params=INPUT_FAMILIES)
def source(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> WeightSource:
    directory = tmp_path_factory.mktemp(request.param)
    return open_weights(make_tiny_model(request.param, directory, **SPLIT[request.param]))


@pytest.fixture(scope="module")
def expert_source(tmp_path_factory: pytest.TempPathFactory) -> WeightSource:
    settings = {**SPLIT["gemma4_text"], **EXPERTS}
    return open_weights(make_tiny_model("gemma4_text", tmp_path_factory.mktemp("experts"), **settings))


@pytest.mark.parametrize("precision", ["fp32", "int4"])
def test_pipelines_chunks_and_instruction_sets_change_no_bit(source: WeightSource, precision: Precision) -> None:
    whole = logits_of(make_executor(source, precision=precision))
    np.testing.assert_array_equal(logits_of(make_executor(source, precision=precision, cuts=(1, 2))), whole)
    np.testing.assert_array_equal(logits_of(make_executor(source, precision=precision), prefill_chunk_tokens=17), whole)
    for isa in supported_isas()[:2]:
        np.testing.assert_array_equal(logits_of(make_executor(source, precision=precision, isa=isa)), whole)


@pytest.mark.parametrize("shares", [(2, 1), (2, 1, 1)])
def test_shards(source: WeightSource, shares: tuple[int, ...]) -> None:
    """Of two key heads, so that one of three shards has no attention; in stages, too."""
    whole = logits_of(make_executor(source))
    assert_close(logits_of(make_executor(source, shares=shares)), whole)
    assert_close(logits_of(make_executor(source, shares=shares, cuts=(2,))), whole)


@pytest.mark.parametrize(("shares", "expert_shares"), [((2, 1), None), ((1, 1, 1), (5, 2, 1))])
def test_shards_of_experts(
    expert_source: WeightSource, shares: tuple[int, ...], expert_shares: tuple[int, ...] | None
) -> None:
    executor = make_executor(expert_source, shares=shares, expert_shares=expert_shares)
    assert_close(logits_of(executor), logits_of(make_executor(expert_source)))


def test_cached_and_again_in_company(source: WeightSource) -> None:
    engine = make_engine(make_executor(source, precision="int4"))
    other = random_tokens(41, seed=3)
    (alone,) = continuations(engine, [TEXT], max_tokens=20)
    again, _ = continuations(engine, [TEXT, other], max_tokens=20)
    assert engine.stats().prefix_hit_tokens > 0
    assert again == alone


def test_preempted_requests_go_on_as_if_they_had_not_been(source: WeightSource) -> None:
    texts = [random_tokens(60, seed=seed) for seed in range(4)]
    roomy = continuations(make_engine(make_executor(source)), texts, max_tokens=40)
    engine = make_engine(make_executor(source), num_blocks=17)
    assert continuations(engine, texts, max_tokens=40) == roomy
    assert engine.stats().num_preemptions > 0


def test_the_cache_holds_each_key_once(tmp_path: Path) -> None:
    """Layers 4 and 5 have those of 2 and 3, and full attention has its own heads."""
    config = open_weights(make_tiny_model("gemma4_text", tmp_path)).config
    sliding, full = 2 * 2 * 16 * 4, 2 * 1 * 32 * 4
    assert [layer_kv_bytes(config, layer, np.float32) for layer in range(6)] == [sliding, full, sliding, full, 0, 0]


def test_layers_stay_with_those_whose_keys_they_attend_over(source: WeightSource) -> None:
    blocks = decoder_blocks(source, "fp32")
    assert [block.can_begin for block in blocks[1:-1]] == [True] * 3 + [False] * 3
    assert balance_layers(stage_costs(blocks), 3, last_cut=last_cut(blocks)) == (1, 1, 4)
    with pytest.raises(ConfigError, match="give at most pp=3"):
        balance_layers(stage_costs(blocks), 4, last_cut=last_cut(blocks))
    with pytest.raises(ConfigError, match="cannot begin with layer 4"):
        check_first_layers(blocks, (4, 2))
    with pytest.raises(ValueError, match="2 is the last that one can begin with"):
        make_executor(source, cuts=(3,))


def test_the_table_of_inputs_is_held_at_its_own_width(tmp_path: Path) -> None:
    """In bfloat16 as the file has it, and counted for the first stage."""
    torch, stored = pytest.importorskip("torch"), pytest.importorskip("safetensors.torch")
    directory = make_tiny_model("gemma4_text", tmp_path, **SPLIT["gemma4_text"])
    path = directory / "model.safetensors"
    stored.save_file({name: values.to(torch.bfloat16) for name, values in stored.load_file(path).items()}, path)
    source = open_weights(directory)
    inputs = source.config.layer_inputs
    assert inputs is not None
    table, embedding = (packed_bytes(source, name, "auto") for name in ("layer_embedding", "embedding"))
    assert table == VOCAB_SIZE * 6 * inputs.width * 2
    assert decoder_blocks(source, "auto")[0].weight_bytes >= table + embedding


def test_the_text_part_of_a_multimodal_model(tmp_path: Path) -> None:
    text = make_tiny_model("gemma4_text", tmp_path / "text")
    whole = tmp_path / "whole"
    whole.mkdir()
    config = {"model_type": "gemma4", "text_config": json.loads((text / "config.json").read_text())}
    (whole / "config.json").write_text(json.dumps(config))
    tensors = {
        name.replace("model.", "model.language_model."): values
        for name, values in load_file(text / "model.safetensors").items()
    }
    beside = {f"model.{part}.x.weight": np.zeros((2, 2), np.float32) for part in ("vision_tower", "embed_audio")}
    save_file({**tensors, **beside}, whole / "model.safetensors")
    np.testing.assert_array_equal(
        logits_of(make_executor(open_weights(whole))), logits_of(make_executor(open_weights(text)))
    )


@pytest.mark.parametrize(
    ("family", "changes", "message"),
    [
        ("gemma4_text", {"per_layer_config": {"1": {"head_dim": 32}}}, "not the same for all layers"),
        ("gemma4_text", {"use_bidirectional_attention": "all"}, "'use_bidirectional_attention' is not supported"),
        ("gemma4_text", {"num_kv_shared_layers": 5}, "keys of a layer that is not there"),
        ("gemma4_text", {"attention_bias": True}, "'attention_bias' is True"),
        ("gemma3n_text", {"activation_sparsity_pattern": [0.95]}, "does not have a share for each layer"),
        ("gemma3n_text", {"altup_active_idx": 4}, "4 streams, of which 4 is active"),
    ],
)
def test_settings_that_are_not_supported(family: str, changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    directory = make_tiny_model(family, tmp_path)
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, **changes}))
    with pytest.raises(ModelLoadError, match=message):
        open_weights(directory)


def test_the_onnx_form_says_that_it_has_none(source: WeightSource) -> None:
    with pytest.raises(ConfigError, match="without an ONNX form"):
        make_executor(source, native=False)
