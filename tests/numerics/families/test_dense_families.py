"""Families that differ from a Llama in norms, MLPs or the order of their parts, against Hugging Face transformers.

TOLERANCE: of the largest logit, as in test_families: fp32 sums in another order, through 4 layers.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from shoal.errors import ModelLoadError
from shoal.model.formats.open_weights import open_weights
from tests.model.converted_gguf import convert
from tests.model.dense_families import DENSE_FAMILIES
from tests.model.tiny_models import make_tiny_model
from tests.numerics.conftest import MakeSource
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

TEXT = random_tokens(90)
NUM_OUTPUT = 64
WEIGHTS = "model.safetensors"
TOLERANCE = 1e-4
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "stablelm with a parallel MLP": ("stablelm", {"use_parallel_residual": True, "use_qkv_bias": False}),
    "gpt-neox one after the other": ("gpt_neox", {"use_parallel_residual": False, "attention_bias": False}),
    "falcon 7b": ("falcon", {"new_decoder_architecture": False, "bias": False}),
    "falcon 11b": ("falcon", {"num_ln_in_parallel_attn": 1}),
    "falcon one after the other": (
        "falcon",
        {"new_decoder_architecture": False, "parallel_attn": False, "multi_query": False, "num_kv_heads": None},
    ),
    "llama4 without chunks": (
        "llama4_text",
        {
            "interleave_moe_layer_step": 1,
            "num_experts_per_tok": 2,
            "attention_chunk_size": None,
            "no_rope_layers": [1, 0, 1, 0],
            "attention_bias": True,
            "use_qk_norm": False,
        },
    ),
    "granite without a shared expert": ("granitemoeshared", {"shared_intermediate_size": 0}),
    "phi moe with a wide mixer": ("phimoe", {"router_jitter_noise": 0.3}),
    "hunyuan with a dynamic base": (
        "hunyuan_v1_dense",
        {"rope_parameters": {"rope_type": "dynamic", "alpha": 50.0, "factor": 1.0, "rope_theta": 1e4}},
    ),
}
CASES = {**{family: (family, {}) for family in DENSE_FAMILIES}, **VARIANTS}


def logits_of(executor: PipelineExecutor, **changes: int) -> F32:
    (logits,) = text_logits(make_engine(executor, **changes), [TEXT])
    return logits


def assert_close(got: F32, want: F32) -> None:
    np.testing.assert_allclose(got, want, rtol=0, atol=TOLERANCE * float(np.abs(want).max()))


@pytest.mark.parametrize("family", DENSE_FAMILIES)
def test_a_family_agrees_with_transformers(family: str, tmp_path: Path) -> None:
    assert_agrees(make_tiny_model(family, tmp_path))


@pytest.mark.parametrize("case", VARIANTS)
@pytest.mark.sample(every=3)
def test_variants_agree_with_transformers(case: str, tmp_path: Path) -> None:
    family, settings = VARIANTS[case]
    assert_agrees(make_tiny_model(family, tmp_path, **settings))


def assert_agrees(directory: Path) -> None:
    """The second answer comes in chunks and from cached blocks."""
    executor = make_executor(open_weights(directory))
    engine = make_engine(executor, prefill_chunk_tokens=23)
    (answer,) = continuations(engine, [TEXT], max_tokens=NUM_OUTPUT)
    (again,) = continuations(engine, [TEXT], max_tokens=NUM_OUTPUT)
    assert engine.stats().prefix_hit_tokens >= 64
    expected = reference_logits(load_reference(directory), TEXT + answer)
    assert_close(logits_of(executor), expected[: len(TEXT)])
    assert again == answer == expected[len(TEXT) - 1 : -1].argmax(axis=-1).tolist()


NOT_IN_GGUF = ("falcon one after the other", "llama4 without chunks", "phi moe with a wide mixer")
IN_GGUF: dict[str, tuple[str, dict[str, Any]]] = {
    **{case: CASES[case] for case in CASES if case not in NOT_IN_GGUF},
    "llama4_text": ("llama4_text", {"attention_chunk_size": 8192, "floor_scale": 8192}),
    "starcoder2": ("starcoder2", {"sliding_window": None}),
    "cohere2": ("cohere2", {"attention_bias": False}),
    "falcon": ("falcon", {"bias": False}),
    "gpt2": ("gpt2", {"n_inner": 128}),
    "olmo2": ("olmo2", {}),
    "olmo3": ("olmo3", {}),
    "olmoe": ("olmoe", {}),
    "exaone4": ("exaone4", {}),
    "exaone4 without windows": ("exaone4", {"sliding_window": None, "layer_types": ["full_attention"] * 4}),
}


@pytest.mark.parametrize("case", IN_GGUF)
@pytest.mark.sample(every=2)
def test_a_gguf_is_the_same_model(case: str, tmp_path: Path) -> None:
    family, settings = IN_GGUF[case]
    directory = make_tiny_model(family, tmp_path, **settings)
    expected = reference_logits(load_reference(directory), TEXT)
    assert_close(logits_of(make_executor(open_weights(convert(directory, tmp_path / "model.gguf")))), expected)


SAME: dict[str, tuple[str, gguf.MODEL_ARCH]] = {
    "internlm2": ("llama", gguf.MODEL_ARCH.INTERNLM2),
    "qwen2 vl": ("qwen2", gguf.MODEL_ARCH.QWEN2VL),
    "qwen3 vl": ("qwen3", gguf.MODEL_ARCH.QWEN3VL),
    "qwen3 vl with experts": ("qwen3_moe", gguf.MODEL_ARCH.QWEN3VLMOE),
}


@pytest.mark.parametrize("case", SAME)
def test_a_gguf_that_is_the_same_by_another_name(case: str, tmp_path: Path) -> None:
    family, architecture = SAME[case]
    directory = make_tiny_model(family, tmp_path, **({"mlp_only_layers": []} if family == "qwen3_moe" else {}))
    expected = logits_of(make_executor(open_weights(directory)))
    path = convert(directory, tmp_path / "model.gguf", architecture)
    assert_close(logits_of(make_executor(open_weights(path))), expected)


@pytest.mark.parametrize("family", DENSE_FAMILIES)
@pytest.mark.sample(every=3)
def test_forms_and_splits(family: str, tiny_source: MakeSource) -> None:
    """Three shards of two key heads: one has no attention."""
    source = tiny_source(family)
    whole = logits_of(make_executor(source))
    assert np.array_equal(logits_of(make_executor(source, cuts=(2,))), whole)
    assert_close(logits_of(make_executor(source, native=False)), whole)
    for native in (None, False):
        assert_close(logits_of(make_executor(source, native=native, cuts=(1,), shares=(2, 1, 1))), whole)


@pytest.mark.parametrize("kind", ["internlm2", "internlm3"])
def test_internlm(kind: str, tmp_path: Path) -> None:
    """A Llama's weights under its names: transformers has no such model. Source of names: its published checkpoints."""
    llama = make_tiny_model("llama", tmp_path / "llama", tie_word_embeddings=False, attention_bias=kind == "internlm3")
    config = json.loads((llama / "config.json").read_text()) | {"model_type": kind, "bias": False, "qkv_bias": False}
    directory = tmp_path / kind
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(config))
    tensors = load_file(llama / "model.safetensors")
    save_file(internlm2_tensors(tensors, num_groups=2) if kind == "internlm2" else tensors, directory / WEIGHTS)
    assert_close(logits_of(make_executor(open_weights(directory))), reference_logits(load_reference(llama), TEXT))


def internlm2_tensors(tensors: Mapping[str, np.ndarray], *, num_groups: int) -> dict[str, np.ndarray]:
    names = {
        "lm_head": "output",
        "embed_tokens": "tok_embeddings",
        "input_layernorm": "attention_norm",
        "post_attention_layernorm": "ffn_norm",
        "self_attn.o_proj": "attention.wo",
        "mlp.gate_proj": "feed_forward.w1",
        "mlp.down_proj": "feed_forward.w2",
        "mlp.up_proj": "feed_forward.w3",
    }
    renamed: dict[str, np.ndarray] = {}
    for name, values in tensors.items():
        for old, new in names.items():
            name = name.replace(old, new)
        if "q_proj" in name:
            parts = [tensors[name.replace("q_proj", f"{part}_proj")] for part in "qkv"]
            groups = [part.reshape(num_groups, -1, part.shape[1]) for part in parts]
            name, values = name.replace("self_attn.q_proj", "attention.wqkv"), np.concatenate(groups, axis=1)
            renamed[name] = values.reshape(-1, values.shape[-1])
        elif not any(f"{part}_proj" in name for part in "kv"):
            renamed[name] = values
    return renamed


@pytest.mark.parametrize(
    ("family", "setting", "value"),
    [
        ("falcon", "alibi", True),
        ("stablelm", "qk_layernorm", True),
        ("gpt2", "scale_attn_by_inverse_layer_idx", True),
        ("phi", "qk_layernorm", True),
        ("hunyuan_v1_dense", "use_cla", True),
        ("minimax_m2", "scoring_func", "softmax"),
    ],
)
def test_what_is_not_computed_is_refused(family: str, setting: str, value: Any, tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match=f"'{setting}' is {value!r}, which is not supported"):
        open_weights(make_tiny_model(family, tmp_path, **{setting: value}))
