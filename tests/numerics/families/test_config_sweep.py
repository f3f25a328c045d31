"""Random settings of every family against transformers, from safetensors and from a GGUF of the same weights."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shoal.model.formats.open_weights import open_weights
from tests.model.converted_gguf import can_be_converted, convert
from tests.model.tiny_models import make_tiny_model
from tests.numerics.engines import make_engine, make_executor, random_tokens, text_logits
from tests.numerics.families.random_configs import CONTEXT, random_config
from tests.numerics.reference import F32, load_reference, reference_logits

TOLERANCE = 1e-4
"""of the largest logit: fp32 sums in another order"""
TEXT = random_tokens(CONTEXT)


def logits_of(path: Path, shares: tuple[int, ...] = (1,)) -> F32:
    executor = make_executor(open_weights(path), shares=shares, max_context=2 * CONTEXT)
    (logits,) = text_logits(make_engine(executor, max_context=2 * CONTEXT), [TEXT])
    return logits


YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 8.0, "original_max_position_embeddings": 64}
CONVERTED: dict[str, tuple[str, dict[str, Any]]] = {
    "llama with all biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "yarn": ("llama", {"rope_parameters": YARN}),
    "yarn's betas": ("llama", {"rope_parameters": {**YARN, "beta_fast": 8.0, "beta_slow": 2.0}}),
    "yarn's attention factor": ("qwen2", {"rope_parameters": {**YARN, "attention_factor": 1.3}}),
    "qwen3 with biases": ("qwen3", {"attention_bias": True}),
    "gemma3": ("gemma3_text", {"query_pre_attn_scalar": 16, "attn_logit_softcapping": 5.0, "attention_bias": True}),
    "mixtral": ("mixtral", {}),
    "qwen2 with experts": ("qwen2_moe", {"mlp_only_layers": []}),
    "qwen3 with experts": ("qwen3_moe", {"mlp_only_layers": []}),
    "gpt-oss": ("gpt_oss", {}),
    "glm 4.5": ("glm4_moe", {}),
    "granite": ("granite", {}),
    "seed-oss": ("seed_oss", {"attention_out_bias": False, "mlp_bias": False}),
    "smollm3": ("smollm3", {"no_rope_layer_interval": 4, "use_sliding_window": False}),
    "gemma": ("gemma", {}),
    "gemma2": ("gemma2", {"query_pre_attn_scalar": 16}),
    "heads of 100": ("mistral", {"head_dim": 100, "sliding_window": None}),
}


@pytest.mark.sample(every=2)
@pytest.mark.parametrize("case", CONVERTED)
def test_a_gguf_is_the_same_model(tmp_path: Path, case: str) -> None:
    family, settings = CONVERTED[case]
    directory = make_tiny_model(family, tmp_path, **settings)
    expected = reference_logits(load_reference(directory), TEXT)
    gguf = convert(directory, tmp_path / "model.gguf")
    np.testing.assert_allclose(logits_of(gguf), expected, rtol=0, atol=TOLERANCE * float(np.abs(expected).max()))


@pytest.mark.parametrize("family", ["llama", "gemma3_text"])
def test_biases_of_sums_over_shards_are_added_once(tmp_path: Path, family: str) -> None:
    settings = {"attention_bias": True, "mlp_bias": True, "intermediate_size": 192}
    directory = make_tiny_model(family, tmp_path, **settings)
    expected = reference_logits(load_reference(directory), TEXT)
    for shares in ((1,), (2, 1)):
        np.testing.assert_allclose(logits_of(directory, shares), expected, rtol=0, atol=TOLERANCE * 10)


@pytest.mark.sample(every=2)
@pytest.mark.parametrize("seed", range(24))
def test_random_settings(tmp_path: Path, seed: int) -> None:
    family, settings = random_config(seed)
    directory = make_tiny_model(family, tmp_path, seed=seed, **settings)
    expected = reference_logits(load_reference(directory), TEXT)
    tolerance = TOLERANCE * float(np.abs(expected).max())
    np.testing.assert_allclose(logits_of(directory), expected, rtol=0, atol=tolerance)
    if can_be_converted(settings):
        gguf = convert(directory, tmp_path / "model.gguf")
        np.testing.assert_allclose(logits_of(gguf), expected, rtol=0, atol=tolerance)
