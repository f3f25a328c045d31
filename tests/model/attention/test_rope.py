"""Rotary tables against the rotary embedding of transformers' own models."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers

from shoal.errors import ModelLoadError
from shoal.model.attention.rope import rope_tables
from shoal.model.layer_config.attention import RopeConfig

HEAD_DIM = 16
TOLERANCE = 2e-4  # the reference takes angles in fp32: 1e-7 of up to 200 radians, times an attention factor near 1


def reference(embedding: torch.nn.Module, num_positions: int) -> tuple[np.ndarray, np.ndarray]:
    cos, sin = embedding(torch.zeros(1, 1, 1), torch.arange(num_positions)[None])
    half = cos.shape[-1] // 2
    return cos[0, :, :half].numpy(), sin[0, :, :half].numpy()


@pytest.mark.parametrize(
    "scaling",
    [
        {},
        {"rope_type": "default"},
        {"rope_type": "linear", "factor": 4.0},
        {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        },
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64},
        {
            "rope_type": "yarn",
            "factor": 40.0,
            "original_max_position_embeddings": 64,
            "beta_fast": 16.0,
            "beta_slow": 2.0,
            "mscale": 1.0,
            "mscale_all_dim": 0.7,
            "truncate": False,
        },
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64, "attention_factor": 1.5},
    ],
)
def test_equals_transformers(scaling: dict[str, float]) -> None:
    theta = 1000.0
    parameters = {"rope_theta": theta, "rope_type": "default", **scaling}
    config = transformers.LlamaConfig(
        hidden_size=4 * HEAD_DIM, num_attention_heads=4, max_position_embeddings=256, rope_parameters=parameters
    )
    want_cos, want_sin = reference(transformers.models.llama.modeling_llama.LlamaRotaryEmbedding(config), 200)
    cos, sin = rope_tables(RopeConfig(theta=theta, rotary_dim=HEAD_DIM, scaling=scaling), 200)
    assert cos.dtype == sin.dtype == np.float32
    np.testing.assert_allclose(cos, want_cos, atol=TOLERANCE)
    np.testing.assert_allclose(sin, want_sin, atol=TOLERANCE)


@pytest.mark.parametrize("num_positions", [60, 200])
def test_longrope_equals_phi3(num_positions: int) -> None:
    scaling = {
        "rope_type": "longrope",
        "short_factor": np.linspace(1.0, 1.5, HEAD_DIM // 2).tolist(),
        "long_factor": np.linspace(1.0, 9.0, HEAD_DIM // 2).tolist(),
        "original_max_position_embeddings": 64,
    }
    config = transformers.Phi3Config(
        hidden_size=4 * HEAD_DIM,
        num_attention_heads=4,
        max_position_embeddings=256,
        original_max_position_embeddings=64,
        rope_parameters={"rope_theta": 1000.0, **scaling},
        pad_token_id=0,
    )
    want_cos, want_sin = reference(transformers.models.phi3.modeling_phi3.Phi3RotaryEmbedding(config), num_positions)
    rope = RopeConfig(theta=1000.0, rotary_dim=HEAD_DIM, scaling={**scaling, "max_position_embeddings": 256})
    cos, sin = rope_tables(rope, num_positions)
    np.testing.assert_allclose(cos, want_cos, atol=TOLERANCE)
    np.testing.assert_allclose(sin, want_sin, atol=TOLERANCE)


@pytest.mark.parametrize(
    "scaling",
    [
        {"rope_type": "spiral"},
        {"rope_type": "linear"},
        {"rope_type": "linear", "factor": 0},
        {"rope_type": "yarn", "factor": "four", "original_max_position_embeddings": 64},
        {"rope_type": "linear", "factor": -2.0},
        {
            "rope_type": "longrope",
            "short_factor": [1.0],
            "long_factor": [1.0],
            "original_max_position_embeddings": 64,
        },
    ],
)
def test_broken_scaling_is_a_model_load_error(scaling: dict[str, object]) -> None:
    with pytest.raises(ModelLoadError, match="rope scaling"):
        rope_tables(RopeConfig(theta=1000.0, rotary_dim=HEAD_DIM, scaling=scaling), 100)


def test_partial_rotation_has_its_own_width() -> None:
    cos, sin = rope_tables(RopeConfig(theta=1000.0, rotary_dim=6), 10)
    assert cos.shape == sin.shape == (10, 3)
    np.testing.assert_allclose(cos**2 + sin**2, 1.0, atol=1e-6)
