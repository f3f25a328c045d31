"""Safetensors directories, written by the safetensors package and by transformers."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGMLQuantizationType as Kind
from safetensors.numpy import load_file, save_file

from shoal.errors import ModelLoadError
from shoal.model.formats.model_path import resolve_model
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


LAYER = {
    "input_layernorm": (64,),
    "self_attn.q_proj": (64, 64),
    "self_attn.k_proj": (32, 64),
    "self_attn.v_proj": (32, 64),
    "self_attn.o_proj": (64, 64),
    "post_attention_layernorm": (64,),
    "mlp.gate_proj": (128, 64),
    "mlp.up_proj": (128, 64),
    "mlp.down_proj": (64, 128),
}
DOWN = "model.layers.0.mlp.down_proj.weight"


def _tensors(dtype: str = "float32") -> dict[str, np.ndarray]:
    rng = np.random.default_rng(5)
    shapes = {"embed_tokens": (320, 64), "norm": (64,), **{f"layers.0.{name}": shape for name, shape in LAYER.items()}}
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
    with pytest.raises(ModelLoadError, match=r"a\.safetensors is missing"):
        open_weights(directory)


def test_truncated_file(tmp_path: Path) -> None:
    path = _write(tmp_path, _tensors()) / "model.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[:-8])
    with pytest.raises(ModelLoadError, match=f"truncated: .* ends at byte {len(data)}, the file has {len(data) - 8}"):
        open_weights(tmp_path)


def test_an_empty_file(tmp_path: Path) -> None:
    (_write(tmp_path, _tensors()) / "model.safetensors").write_bytes(b"")
    with pytest.raises(ModelLoadError, match="the file is empty"):
        open_weights(tmp_path)


@pytest.mark.parametrize("content", [b"\0" * 4, b"\xff" * 64, b"\x10\0\0\0\0\0\0\0not json at all."])
def test_a_file_of_another_kind(tmp_path: Path, content: bytes) -> None:
    (_write(tmp_path, _tensors()) / "model.safetensors").write_bytes(content)
    with pytest.raises(ModelLoadError, match="truncated or not a safetensors file"):
        open_weights(tmp_path)


def test_no_weights_and_missing_tensors(tmp_path: Path) -> None:
    tensors = _tensors()
    del tensors["model.layers.0.mlp.up_proj.weight"]
    _write(tmp_path, tensors)
    with pytest.raises(ModelLoadError, match=r"no tensor 'model\.layers\.0\.mlp\.up_proj\.weight'"):
        open_weights(tmp_path)
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


def test_only_weights_that_are_programs(tmp_path: Path) -> None:
    (_write(tmp_path, _tensors()) / "model.safetensors").unlink()
    (tmp_path / "pytorch_model.bin").write_bytes(b"PK")
    with pytest.raises(ModelLoadError, match=r"only pytorch_model\.bin.*save_pretrained"):
        open_weights(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shape": []}, "has the shape \\[\\], but the model's settings need"),
        ({"shape": [64]}, "has the shape \\[64\\], but the model's settings need"),
        (
            {"shape": [128, 64]},
            "but the model's settings need \\[64, 128\\] as 'layers.0.down'",
        ),
        ({"shape": [64, 128, 1]}, "but the model's settings need"),
        ({"shape": [-64, -128]}, "the header is damaged"),
        ({"shape": [64.0, 128]}, "the header is damaged"),
        ({"shape": [True, 8192]}, "the header is damaged"),
        ({"shape": "64"}, "the header is damaged"),
        ({"data_offsets": [0]}, "the header is damaged"),
        ({"data_offsets": [8, 0]}, "ends before it begins"),
        ({"data_offsets": [0, 2**62]}, "truncated"),
        ({"data_offsets": [0, 32768]}, "overlap"),
        ({"dtype": "I64"}, "has type I64; supported: F32, F16, BF16"),
        ({"dtype": "F16"}, "has 32768 bytes, its shape .* needs 16384"),
        ({"dtype": 7}, "the header is damaged"),
    ],
    ids=str,
)
def test_damaged_headers(tmp_path: Path, change: dict[str, object], message: str) -> None:
    _edit_header(_write(tmp_path, _tensors()), lambda header: header[DOWN].update(change))
    with pytest.raises(ModelLoadError, match=message):
        open_weights(tmp_path)


@pytest.mark.parametrize("entry", [None, 3, [], "x"])
def test_an_entry_that_is_none(tmp_path: Path, entry: object) -> None:
    _edit_header(_write(tmp_path, _tensors()), lambda header: header.update({DOWN: entry}))
    with pytest.raises(ModelLoadError, match="the header is damaged"):
        open_weights(tmp_path)


def _edit_header(directory: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    path = directory / "model.safetensors"
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    edit(header)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])


def test_a_header_nested_without_end(tmp_path: Path) -> None:
    text = b'{"a":' + b"[" * 100_000
    (_write(tmp_path, _tensors()) / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text)
    with pytest.raises(ModelLoadError, match="truncated or not a safetensors file"):
        open_weights(tmp_path)


def test_tensors_that_nothing_reads(tmp_path: Path) -> None:
    extra: dict[str, np.ndarray] = {
        "model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(8, np.float32),
        "model.embeddings.position_ids": np.arange(512, dtype=np.int64),
    }
    assert open_weights(_write(tmp_path, _tensors() | extra)).config.num_layers == 1
    _write(tmp_path, _tensors() | {"model.layers.0.mlp.down_proj.bias": np.ones(64, np.float32)})
    with pytest.raises(ModelLoadError, match=r"contains model\.layers\.0\.mlp\.down_proj\.bias, which a llama model"):
        open_weights(tmp_path)


def test_a_head_of_its_own_counts_also_where_it_should_be_tied(tmp_path: Path) -> None:
    """transformers ties only what is equal."""
    head = np.full((320, 64), 2.0, np.float32)
    source = open_weights(_write(tmp_path, _tensors() | {"lm_head.weight": head}))
    np.testing.assert_array_equal(dequantize(source.matrix("head", "fp32")), head)
    assert not source.config.tied_embeddings
    embedding = _tensors()["model.embed_tokens.weight"]
    assert open_weights(_write(tmp_path, _tensors() | {"lm_head.weight": embedding.copy()})).config.tied_embeddings


@pytest.mark.parametrize("rows", [319, 321])
def test_a_vocabulary_of_another_size_than_the_embedding(tmp_path: Path, rows: int) -> None:
    _write(tmp_path, _tensors() | {"model.embed_tokens.weight": np.ones((rows, 64), np.float32)})
    with pytest.raises(ModelLoadError, match=r"need \[320, 64\] as 'embedding'"):
        open_weights(tmp_path)


@pytest.mark.parametrize("name", ["/etc/passwd", "../b.safetensors", "a/../../b", "C:\\x", "", "a\0b", 3, None, ["x"]])
def test_an_index_that_leads_out_of_the_folder(tmp_path: Path, name: object) -> None:
    directory = _write(tmp_path, _tensors())
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"model.norm.weight": name}}))
    with pytest.raises(ModelLoadError, match=r"names (the|a) file"):
        open_weights(directory)


def test_links_are_followed_as_the_hub_s_cache_needs_it(tmp_path: Path) -> None:
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshot"
    blobs.mkdir()
    snapshot.mkdir()
    _write(blobs, _tensors())
    (blobs / "model.safetensors").rename(blobs / "abc")
    (snapshot / "config.json").symlink_to("../blobs/config.json")
    (snapshot / "part.safetensors").symlink_to("../blobs/abc")
    weight_map = dict.fromkeys(_tensors(), "part.safetensors")
    (snapshot / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert open_weights(snapshot).config.vocab_size == 320


@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "model.safetensors", "x.safetensors"])
def test_a_pipe_is_not_waited_for(tmp_path: Path, name: str) -> None:
    directory = _write(tmp_path, _tensors())
    (directory / name).unlink(missing_ok=True)
    if name == "x.safetensors":
        weight_map = {"model.norm.weight": name}
        (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    os.mkfifo(directory / name)
    with pytest.raises(ModelLoadError, match=f"{name} is not a regular file"):
        open_weights(directory)
    with pytest.raises(ModelLoadError, match=f"{name} is not a regular file"):
        resolve_model(str(directory))


def as_mxfp4(values_ENK: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Random codes and scales of the matrices' shape, and what they stand for by the format's own table.

    Source of the values: OCP Microscaling Formats 1.0, E2M1 and E8M0.
    """
    half = np.array([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0], np.float32)
    table = np.concatenate([half, -half])
    experts, rows, columns = values_ENK.shape
    codes = rng.integers(0, 16, (experts, rows, columns // 32, 32), np.uint8)
    scales = rng.integers(120, 126, (experts, rows, columns // 32), np.uint8)
    blocks = codes[..., 0::2] | (codes[..., 1::2] << np.uint8(4))
    meant = table[codes] * np.exp2(scales.astype(np.float32) - 127)[..., None]
    return blocks, scales, meant.reshape(values_ENK.shape).astype(np.float32)


def write_mxfp4(directory: Path) -> dict[str, np.ndarray]:
    """A tiny gpt-oss whose experts are blocks, and the matrices that they stand for, outputs before inputs."""
    make_tiny_model("gpt_oss", directory)
    tensors, rng = load_file(directory / "model.safetensors"), np.random.default_rng(0)
    meant: dict[str, np.ndarray] = {}
    for name in [name for name in tensors if name.endswith(("experts.gate_up_proj", "experts.down_proj"))]:
        blocks, scales, meant[name] = as_mxfp4(tensors.pop(name).swapaxes(1, 2), rng)
        tensors[f"{name}_blocks"], tensors[f"{name}_scales"] = blocks, scales
    save_file(tensors, directory / "model.safetensors")
    config = json.loads((directory / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "mxfp4", "modules_to_not_convert": []}
    (directory / "config.json").write_text(json.dumps(config))
    return meant


def test_mxfp4_blocks_are_held_by_their_own_values(tmp_path: Path) -> None:
    meant = write_mxfp4(tmp_path)
    source = open_weights(tmp_path)
    for layer, expert in ((0, 0), (2, 5), (3, 7)):
        prefix = f"model.layers.{layer}.mlp.experts."
        gate_up, down = meant[f"{prefix}gate_up_proj"][expert], meant[f"{prefix}down_proj"][expert]
        for leaf, expected in (("gate", gate_up[0::2]), ("up", gate_up[1::2]), ("down", down)):
            name = f"layers.{layer}.experts.{expert}.{leaf}"
            for precision in ("fp32", "auto"):
                np.testing.assert_array_equal(dequantize(source.matrix(name, precision)), expected)
            part = source.matrix(name, "auto", rows=(8, 40), columns=(32, 64))
            np.testing.assert_array_equal(dequantize(part), expected[8:40, 32:64])
            assert source.packing(name, "auto").kind == Kind.MXFP4


def test_blocks_without_scales_are_refused(tmp_path: Path) -> None:
    write_mxfp4(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["model.layers.1.mlp.experts.down_proj_scales"]
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(ModelLoadError, match=r"no tensor 'model\.layers\.1\.mlp\.experts\.down_proj_scales'"):
        open_weights(tmp_path)
    tensors["model.layers.1.mlp.experts.down_proj_scales"] = np.zeros((8, 64, 2), np.uint8)
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(ModelLoadError, match=r"down_proj_blocks and its scales are not MXFP4 blocks"):
        open_weights(tmp_path)


def test_another_number_of_experts_than_the_settings_say(tmp_path: Path) -> None:
    for family in ("gpt_oss", "qwen3_moe"):
        directory = make_tiny_model(family, tmp_path / family)
        config = json.loads((directory / "config.json").read_text())
        for number in (4, 16):
            (directory / "config.json").write_text(json.dumps({**config, "num_local_experts": number}))
            with pytest.raises(ModelLoadError, match=r"experts"):
                open_weights(directory)
