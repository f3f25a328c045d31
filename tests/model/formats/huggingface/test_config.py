"""config.json in the forms of transformers 4 and 5, against what transformers itself makes of them."""

import json
from pathlib import Path
from typing import Any

import pytest

from shoal.errors import ModelLoadError
from shoal.model.formats.huggingface.config import config_from_hf
from tests.model.tiny_models import FAMILIES, tiny_hf_config

BASE = {
    "vocab_size": 320,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-6,
}


def _write(directory: Path, values: dict[str, Any], generation: dict[str, Any] | None = None) -> Path:
    (directory / "config.json").write_text(json.dumps(values))
    if generation is not None:
        (directory / "generation_config.json").write_text(json.dumps(generation))
    return directory


@pytest.mark.parametrize("family", FAMILIES)
def test_agrees_with_transformers(tmp_path: Path, family: str) -> None:
    theirs = tiny_hf_config(family)
    theirs.save_pretrained(tmp_path)
    ours = config_from_hf(tmp_path)
    assert (ours.num_layers, ours.hidden_size, ours.vocab_size) == (4, 64, 320)
    assert (ours.num_heads, ours.num_kv_heads, ours.head_dim) == (4, 2, 16)
    assert ours.norm_epsilon == theirs.rms_norm_eps
    assert ours.tied_embeddings == theirs.tie_word_embeddings
    full = theirs.rope_parameters.get("full_attention", theirs.rope_parameters)
    assert ours.rope.theta == full["rope_theta"]
    assert ours.eos_token_ids == (2,)


def test_sliding_windows(tmp_path: Path) -> None:
    for family, windows in {"mistral": (24,) * 4, "gemma3_text": (24, 24, 0, 24), "llama": ()}.items():
        tiny_hf_config(family).save_pretrained(tmp_path)
        assert config_from_hf(tmp_path).layer_windows == windows


def test_qwen_slides_only_when_told_and_only_above(tmp_path: Path) -> None:
    values = {**BASE, "model_type": "qwen2", "sliding_window": 16, "max_window_layers": 4}
    assert config_from_hf(_write(tmp_path, {**values, "use_sliding_window": False})).layer_windows == ()
    windows = config_from_hf(_write(tmp_path, {**values, "use_sliding_window": True})).layer_windows
    assert windows == (0, 0, 0, 0, 16, 16)


def test_old_llama3_scaling(tmp_path: Path) -> None:
    scaling = {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 128,
    }
    values = {**BASE, "model_type": "llama", "rope_theta": 5e5, "rope_scaling": scaling}
    rope = config_from_hf(_write(tmp_path, values)).rope
    assert (rope.theta, rope.rotary_dim, dict(rope.scaling)) == (5e5, 16, scaling)
    new = {**BASE, "model_type": "llama", "rope_parameters": {**scaling, "rope_theta": 5e5}}
    assert config_from_hf(_write(tmp_path, new)).rope == rope


def test_phi3_longrope_and_partial_rotary(tmp_path: Path) -> None:
    values = {
        **BASE,
        "model_type": "phi3",
        "partial_rotary_factor": 0.75,
        "original_max_position_embeddings": 128,
        "rope_scaling": {"type": "su", "short_factor": [1.0] * 6, "long_factor": [2.0] * 6},
    }
    rope = config_from_hf(_write(tmp_path, values)).rope
    assert rope.rotary_dim == 12
    assert rope.scaling["rope_type"] == "longrope"
    assert rope.scaling["original_max_position_embeddings"] == 128
    assert rope.scaling["factor"] == 4.0
    assert rope.scaling["long_factor"] == [2.0] * 6


def test_old_nested_gemma3_with_defaults_left_out(tmp_path: Path) -> None:
    text = {
        "model_type": "gemma3_text",
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "num_hidden_layers": 7,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
        "sliding_window": 1024,
    }
    config = config_from_hf(_write(tmp_path, {"model_type": "gemma3", "text_config": text, "eos_token_id": [1, 106]}))
    assert (config.num_heads, config.num_kv_heads, config.head_dim, config.vocab_size) == (8, 4, 256, 262208)
    assert config.layer_windows == (1024, 1024, 1024, 1024, 1024, 0, 1024)
    assert (config.rope.theta, dict(config.rope.scaling)) == (1e6, {"factor": 8.0, "rope_type": "linear"})
    assert config.local_rope is not None
    assert (config.local_rope.theta, dict(config.local_rope.scaling)) == (1e4, {})
    assert config.embedding_scale == pytest.approx(2560**0.5)
    assert config.attention_scale == 256**-0.5
    assert config.tied_embeddings
    assert config.eos_token_ids == (1, 106)


def test_eos_of_generation_config_counts_too(tmp_path: Path) -> None:
    values = {**BASE, "model_type": "llama", "eos_token_id": 2}
    assert config_from_hf(_write(tmp_path, values, {"eos_token_id": [7, 2]})).eos_token_ids == (2, 7)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "mamba"}, "architecture 'mamba' is not supported; there are llama"),
        ({"quantization_config": {"quant_method": "hqq"}}, "quantization 'hqq' is not supported"),
        ({"hidden_size": None}, "no 'hidden_size'"),
        ({"num_hidden_layers": -1}, "'num_hidden_layers' is -1"),
        ({"hidden_act": "relu"}, "activation 'relu' is not supported"),
        ({"rope_scaling": {"rope_type": "ntk", "factor": 2.0}}, "rope type 'ntk' is not supported"),
        ({"rope_scaling": {"rope_type": "linear"}}, "missing or wrong parameter: 'factor'"),
        ({"rope_scaling": {"rope_type": "linear", "factor": "2"}}, "'factor' is '2', not a number"),
        ({"rope_scaling": {"rope_type": "linear", "factor": 0}}, "rope scaling 'linear'"),
        ({"rope_scaling": {"rope_type": "longrope", "short_factor": [1.0], "long_factor": [1.0]}}, "expected 8"),
        ({"rope_scaling": [1]}, "impossible value"),
        ({"rope_theta": float("nan")}, "'rope_theta' is nan"),
        ({"rope_theta": -1.0}, "a rotary base of -1.0"),
        ({"use_bidirectional_attention": True}, "'use_bidirectional_attention' is not supported"),
        ({"num_key_value_heads": 3}, "4 attention heads cannot share 3"),
        ({"num_key_value_heads": True}, "'num_key_value_heads' is True"),
        ({"num_hidden_layers": 10**9}, "between 1 and 4096 layers"),
        ({"max_position_embeddings": 2**32 - 1}, "a context of 4294967295 tokens"),
        ({"max_position_embeddings": 512.5}, "'max_position_embeddings' is 512.5"),
        ({"vocab_size": "many"}, "'vocab_size' is 'many'"),
        ({"head_dim": 15}, "15 rotary dimensions of 15"),
        ({"head_dim": 2**20}, "no more than 8192"),
        ({"hidden_size": 2}, "'head_dim' is 0"),
        ({"rms_norm_eps": "small"}, "'rms_norm_eps' is 'small'"),
        ({"rms_norm_eps": -1.0}, "norm_epsilon is -1.0"),
        ({"eos_token_id": [2, "3"]}, "'eos_token_id' is"),
        ({"eos_token_id": 2**40}, "'eos_token_id' is"),
        ({"model_type": "mistral", "sliding_window": -4}, "'sliding_window' is -4"),
        ({"model_type": "phi3", "partial_rotary_factor": -0.5}, "-8 rotary dimensions"),
        ({"model_type": "phi3", "partial_rotary_factor": 2.0}, "32 rotary dimensions of 16"),
        ({"model_type": "qwen2", "use_sliding_window": True, "layer_types": ["full_attention"]}, "1 items for 6"),
        ({"model_type": "qwen3", "use_sliding_window": True, "layer_types": ["odd"] * 6}, "'odd', which is not"),
        ({"model_type": "qwen3_moe", "num_experts": 10**6}, "1000000 experts; between 1 and 4096"),
        ({"model_type": "qwen3_moe", "num_experts_per_tok": 200}, "through 200 experts; between 1 and 64"),
        ({"model_type": "qwen3_moe", "mlp_only_layers": ["a"]}, "'mlp_only_layers' is 'a'"),
        ({"model_type": "glm4_moe", "n_group": 5}, "128 experts do not divide into 5 groups"),
        ({"model_type": "glm4_moe", "n_group": 2, "topk_group": 3}, "from 3 of 2 groups"),
        ({"model_type": "gpt_oss", "swiglu_limit": 6.0}, "'swiglu_limit' is 6.0, which is not supported, only 7.0"),
        ({"model_type": "olmoe", "clip_qkv": 8.0}, "'clip_qkv' is 8.0, which is not supported"),
        ({"model_type": "smollm3", "no_rope_layers": [1]}, "'no_rope_layers' has 1 items for 6 layers"),
        ({"model_type": "granite", "logits_scaling": 0}, "impossible value"),
    ],
)
def test_what_is_not_supported_is_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelLoadError, match=message):
        config_from_hf(_write(tmp_path, {**BASE, "model_type": "llama", **change}))


def test_broken_json(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": ')
    with pytest.raises(ModelLoadError, match="cannot be read as JSON"):
        config_from_hf(tmp_path)


def test_nesting_without_end(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"a":' + "[" * 100_000)
    with pytest.raises(ModelLoadError, match="cannot be read as JSON"):
        config_from_hf(tmp_path)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_left_out_has_the_default_of_transformers(tmp_path: Path, family: str) -> None:
    AutoConfig = pytest.importorskip("transformers").AutoConfig

    theirs = AutoConfig.for_model(family)
    config = config_from_hf(_write(tmp_path, {"model_type": family}))
    assert config.norm_epsilon == theirs.rms_norm_eps
    assert config.max_context == theirs.max_position_embeddings
    assert (config.vocab_size, config.hidden_size) == (theirs.vocab_size, theirs.hidden_size)
    assert (config.num_layers, config.intermediate_size) == (theirs.num_hidden_layers, theirs.intermediate_size)
    assert (config.num_heads, config.num_kv_heads) == (theirs.num_attention_heads, theirs.num_key_value_heads)
    assert config.head_dim == getattr(theirs, "head_dim", theirs.hidden_size // theirs.num_attention_heads)
    window = theirs.sliding_window if "sliding_window" in theirs else None
    assert max(config.layer_windows, default=0) == (window or 0)


def test_the_window_of_a_mistral(tmp_path: Path) -> None:
    values = {**BASE, "model_type": "mistral"}
    assert config_from_hf(_write(tmp_path, values)).layer_windows == (4096,) * 6
    assert config_from_hf(_write(tmp_path, {**values, "sliding_window": None})).layer_windows == ()


def test_a_llama_has_no_window_whatever_its_file_says(tmp_path: Path) -> None:
    values = {**BASE, "model_type": "llama", "sliding_window": 16, "layer_types": ["sliding_attention"] * 6}
    assert config_from_hf(_write(tmp_path, values)).layer_windows == ()


def test_the_dynamic_kind_changes_nothing_within_the_context(tmp_path: Path) -> None:
    values = {**BASE, "model_type": "llama", "rope_scaling": {"type": "dynamic", "factor": 2.0}}
    config = config_from_hf(_write(tmp_path, values))
    assert (config.rope.scaling, config.max_context) == ({}, 512)
