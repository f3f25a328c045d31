"""Safetensors directories, written by the safetensors package and by transformers."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from shoal.errors import ModelLoadError
from shoal.model.formats.open_weights import open_weights
from shoal.model.formats.quantization import dequantize
from tests.model.tiny_models import FAMILIES, make_tiny_model

SIZES = {
    "model_type": "llama",
    "vocab_size": 320,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": True,
}


def _tensors(dtype: str = "float32") -> dict[str, np.ndarray]:
    rng = np.random.default_rng(5)
    shapes = {"embed_tokens": (320, 64), "norm": (64,), "layers.0.mlp.down_proj": (64, 128)}
    return {f"model.{name}.weight": rng.standard_normal(shape).astype(dtype) for name, shape in shapes.items()}


def _write(directory: Path, tensors: dict[str, np.ndarray]) -> Path:
    (directory / "config.json").write_text(json.dumps(SIZES))
    save_file(tensors, directory / "model.safetensors")
    return directory


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_every_float_type_is_widened_exactly(tmp_path: Path, dtype: str) -> None:
    pytest.importorskip("ml_dtypes", reason="bfloat16 for NumPy")
    tensors = _tensors(dtype)
    source = open_weights(_write(tmp_path, tensors))
    expected = tensors["model.layers.0.mlp.down_proj.weight"].astype(np.float32)
    np.testing.assert_array_equal(dequantize(source.matrix("layers.0.down", "auto")), expected)
    np.testing.assert_array_equal(source.vector("final_norm"), tensors["model.norm.weight"].astype(np.float32))


def test_bytes_from_the_header_are_those_of_the_matrix(tmp_path: Path) -> None:
    source = open_weights(_write(tmp_path, _tensors()))
    for name in ("embedding", "head", "layers.0.down"):
        for precision in ("auto", "fp32", "int8", "int4"):
            assert source.matrix_bytes(name, precision) == source.matrix(name, precision).num_bytes  # type: ignore[arg-type]


def test_shards_are_found_by_the_index(tmp_path: Path) -> None:
    tensors = _tensors()
    directory = _write(tmp_path, {"model.norm.weight": tensors.pop("model.norm.weight")})
    (directory / "model.safetensors").rename(directory / "a.safetensors")
    save_file(tensors, directory / "b.safetensors")
    weight_map = dict.fromkeys(tensors, "b.safetensors") | {"model.norm.weight": "a.safetensors"}
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    source = open_weights(directory)
    np.testing.assert_array_equal(dequantize(source.matrix("head", "fp32")), tensors["model.embed_tokens.weight"])
    assert source.vector("final_norm").shape == (64,)
    (directory / "a.safetensors").unlink()
    with pytest.raises(ModelLoadError, match=r"a\.safetensors: missing"):
        open_weights(directory)


def test_truncated_file(tmp_path: Path) -> None:
    path = _write(tmp_path, _tensors()) / "model.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[:-8])
    with pytest.raises(ModelLoadError, match=f"truncated: .* ends at byte {len(data)}, the file has {len(data) - 8}"):
        open_weights(tmp_path)


@pytest.mark.parametrize("content", [b"", b"\0" * 4, b"\xff" * 64, b"\x10\0\0\0\0\0\0\0not json at all."])
def test_a_file_of_another_kind(tmp_path: Path, content: bytes) -> None:
    (_write(tmp_path, _tensors()) / "model.safetensors").write_bytes(content)
    with pytest.raises(ModelLoadError, match="truncated or not a safetensors file"):
        open_weights(tmp_path)


def test_no_weights_and_missing_tensors(tmp_path: Path) -> None:
    source = open_weights(_write(tmp_path, _tensors()))
    with pytest.raises(ModelLoadError, match=r"no tensor 'model\.layers\.0\.mlp\.up_proj\.weight'"):
        source.matrix("layers.0.up", "auto")
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ModelLoadError, match=r"no \.safetensors files"):
        open_weights(tmp_path)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_name_of_every_family(tmp_path: Path, family: str) -> None:
    source = open_weights(make_tiny_model(family, tmp_path))
    config, raw = source.config, load_file(tmp_path / "model.safetensors")
    shapes = {"q": (64, 64), "k": (32, 64), "v": (32, 64), "o": (64, 64), "gate": (128, 64), "up": (128, 64)}
    for name, shape in {**shapes, "down": (64, 128)}.items():
        assert source.matrix(f"layers.3.{name}", "auto").shape == shape
    vectors = ["attn_norm", "mlp_norm"]
    vectors += ["q_bias", "k_bias", "v_bias"] * config.qkv_bias
    vectors += ["q_norm", "k_norm"] * config.qk_norm
    vectors += ["post_attn_norm", "post_mlp_norm"] * config.post_norms
    for name in vectors:
        assert source.vector(f"layers.3.{name}").ndim == 1
    added = 1 if family == "gemma3_text" else 0
    np.testing.assert_array_equal(source.vector("final_norm"), raw["model.norm.weight"] + np.float32(added))


def test_gemma3_norms_by_their_places(tmp_path: Path) -> None:
    source = open_weights(make_tiny_model("gemma3_text", tmp_path))
    raw = load_file(tmp_path / "model.safetensors")
    places = {
        "attn_norm": "input_layernorm",
        "post_attn_norm": "post_attention_layernorm",
        "mlp_norm": "pre_feedforward_layernorm",
        "post_mlp_norm": "post_feedforward_layernorm",
        "k_norm": "self_attn.k_norm",
    }
    for ours, theirs in places.items():
        expected = raw[f"model.layers.1.{theirs}.weight"] + np.float32(1)
        np.testing.assert_array_equal(source.vector(f"layers.1.{ours}"), expected)


def test_phi3_fused_tensors_are_sliced_by_rows(tmp_path: Path) -> None:
    source = open_weights(make_tiny_model("phi3", tmp_path))
    raw = load_file(tmp_path / "model.safetensors")
    fused = np.concatenate([dequantize(source.matrix(f"layers.0.{name}", "auto")) for name in ("q", "k", "v")])
    np.testing.assert_array_equal(fused, raw["model.layers.0.self_attn.qkv_proj.weight"])
    fused = np.concatenate([dequantize(source.matrix(f"layers.0.{name}", "auto")) for name in ("gate", "up")])
    np.testing.assert_array_equal(fused, raw["model.layers.0.mlp.gate_up_proj.weight"])
