"""A part of a matrix is exactly what the whole one has there: every kind of block, every precision, every file."""

import json
from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType as Kind
from gguf import quants
from gguf.constants import GGML_QUANT_SIZES
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from shoal.model.formats.gguf.blocks import SUPPORTED, choose_form, columns_to_weight, form_bytes, to_weight
from shoal.model.formats.open_weights import open_weights
from shoal.model.weights import BLOCK, DenseWeight, Range, Weight, WeightSource, resolve_range
from tests.model.tiny_models import make_tiny_gguf, tiny_llama_tensors, write_gguf

PRECISIONS = ("auto", "fp32", "int8", "int4")
NUM_ROWS, NUM_COLUMNS = 5, 768
HALVES = {
    Kind.Q4_K: (0, 2),
    Kind.Q5_K: (0, 2),
    Kind.Q2_K: (80, 82),
    Kind.Q3_K: (108,),
    Kind.Q6_K: (208,),
    Kind.TQ1_0: (52,),
    Kind.TQ2_0: (64,),
}
"""Where a block holds half-precision numbers, if not at its start."""


def raw_rows(kind: Kind) -> np.ndarray:
    """Rows of random blocks; half-precision numbers in them are small ones."""
    rng = np.random.default_rng(int(kind))
    if kind in (Kind.F32, Kind.F16, Kind.BF16):
        values = quants.quantize(rng.standard_normal((NUM_ROWS, NUM_COLUMNS), dtype=np.float32), kind)
        return values.view(np.uint8)
    block_weights, block_bytes = GGML_QUANT_SIZES[kind]
    raw = rng.integers(0, 256, (NUM_ROWS, NUM_COLUMNS // block_weights, block_bytes), dtype=np.uint8)
    for start in HALVES.get(kind, (0, 2) if kind in (Kind.Q4_1, Kind.Q5_1) else (0,)):
        factors = rng.uniform(0.001, 0.02, (*raw.shape[:2], 1)).astype(np.float16)
        raw[..., start : start + 2] = factors.view(np.uint8)
    if kind == Kind.MXFP4:  # its scale is an exponent
        raw[..., 0] = rng.integers(110, 125, raw.shape[:2])
    if kind == Kind.IQ1_M:  # its scale is spread over the highest four bits of four 16-bit words
        raw[..., -8:] &= 0x2F
    return raw.reshape(NUM_ROWS, -1)


def check_equal(part: Weight, whole: Weight, rows: Range, columns: Range) -> None:
    """Bit by bit, in the same form."""
    cut = slice(*rows)
    assert type(part) is type(whole)
    assert part.shape == (rows[1] - rows[0], columns[1] - columns[0])
    if isinstance(whole, DenseWeight):
        assert isinstance(part, DenseWeight)
        np.testing.assert_array_equal(part.values_NK, whole.values_NK[cut, slice(*columns)])
        return
    assert not isinstance(part, DenseWeight)
    blocks = slice(columns[0] // BLOCK, columns[1] // BLOCK)
    assert part.bits == whole.bits
    np.testing.assert_array_equal(part.q_NGB, whole.q_NGB[cut, blocks])
    np.testing.assert_array_equal(part.scales_NG, whole.scales_NG[cut, blocks])
    assert (part.offsets_NG is None) == (whole.offsets_NG is None)
    if whole.offsets_NG is not None and part.offsets_NG is not None:
        np.testing.assert_array_equal(part.offsets_NG, whole.offsets_NG[cut, blocks])


def check_parts(source: WeightSource, name: str, row_atom: int, *, rows: int, columns: int) -> None:
    """Some of a matrix's rows, some of its columns, and none of them, at every precision."""
    for precision in PRECISIONS:
        whole = source.matrix(name, precision)
        assert whole.shape == (rows, columns)
        for own_rows, own_columns in (
            ((row_atom, rows), (0, columns)),
            ((0, rows), (BLOCK, columns)),
            ((row_atom, 2 * row_atom), (0, BLOCK)),
            ((row_atom, row_atom), (0, columns)),
            ((0, rows), (BLOCK, BLOCK)),
            ((rows, rows), (columns, columns)),
        ):
            part = source.matrix(name, precision, rows=own_rows, columns=own_columns)
            check_equal(part, whole, own_rows, own_columns)
            num_bytes = source.matrix_bytes(name, precision, rows=own_rows, columns=own_columns)
            assert num_bytes == part.num_bytes


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("kind", sorted(SUPPORTED))
def test_columns_of_every_kind(kind: Kind, precision) -> None:
    """Also within a super-block of 256, at blocks of 32."""
    raw = raw_rows(kind)
    form = choose_form(kind, precision, num_columns=NUM_COLUMNS, is_vocabulary=False)
    whole = to_weight(raw, kind, form)
    if isinstance(whole, DenseWeight):
        assert np.isfinite(whole.values_NK).all()
    for columns in ((0, 256), (32, 64), (96, 544), (256, 768), (736, 768), (0, 768), (64, 64)):
        for rows in ((0, NUM_ROWS), (1, 2), (3, 3)):
            part = columns_to_weight(raw[slice(*rows)], kind, form, columns)
            check_equal(part, whole, rows, columns)
            assert part.num_bytes == form_bytes(form, kind, *part.shape)


@given(st.sampled_from(sorted(SUPPORTED)), st.sampled_from(PRECISIONS), st.data())
def test_any_blocks_of_any_kind(kind: Kind, precision, data: st.DataObject) -> None:
    blocks = st.integers(0, NUM_COLUMNS // BLOCK)
    first, last = sorted((data.draw(blocks), data.draw(blocks)))
    form = choose_form(kind, precision, num_columns=NUM_COLUMNS, is_vocabulary=data.draw(st.booleans()))
    columns = (first * BLOCK, last * BLOCK)
    raw = raw_rows(kind)
    check_equal(columns_to_weight(raw, kind, form, columns), to_weight(raw, kind, form), (0, NUM_ROWS), columns)


@pytest.mark.parametrize("kind", [Kind.F32, Kind.Q4_K, Kind.Q5_0])
def test_columns_that_cut_a_block_are_refused(kind: Kind) -> None:
    for columns in ((16, 64), (32, 40)):
        with pytest.raises(ValueError, match="cut a quantization block of 32"):
            columns_to_weight(raw_rows(kind), kind, "int4", columns)
    dense = columns_to_weight(raw_rows(kind), kind, "dense", (5, 41))
    check_equal(dense, to_weight(raw_rows(kind), kind, "dense"), (0, NUM_ROWS), (5, 41))


@pytest.mark.parametrize("quant", ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"])
def test_matrices_of_a_gguf_file(tmp_path: Path, quant: str) -> None:
    """q and k come in whole heads: their rows are put in another order within each."""
    source = open_weights(make_tiny_gguf(tmp_path, quant=quant))
    check_parts(source, "layers.2.q", 16, rows=64, columns=64)
    check_parts(source, "layers.2.k", 16, rows=32, columns=64)
    check_parts(source, "layers.3.v", 1, rows=32, columns=64)
    check_parts(source, "layers.3.down", 7, rows=64, columns=128)
    check_parts(source, "head", 33, rows=320, columns=64)


def test_fused_tensors_of_a_gguf_file(tmp_path: Path) -> None:
    tensors = tiny_llama_tensors(num_layers=1)
    parts = {name: tensors.pop(f"blk.0.{name}.weight") for name in ("attn_q", "attn_k", "attn_v", "ffn_gate", "ffn_up")}
    tensors["blk.0.attn_qkv.weight"] = np.concatenate([parts["attn_q"], parts["attn_k"], parts["attn_v"]])
    tensors["blk.0.ffn_up.weight"] = np.concatenate([parts["ffn_gate"], parts["ffn_up"]])
    source = open_weights(write_gguf(tmp_path / "phi.gguf", "phi3", tensors, quant="Q4_1"))
    for name, rows in {"q": 64, "k": 32, "v": 32, "gate": 128, "up": 128}.items():
        check_parts(source, f"layers.0.{name}", 5, rows=rows, columns=64)


def test_rows_that_cut_a_head_are_refused(tmp_path: Path) -> None:
    source = open_weights(make_tiny_gguf(tmp_path))
    with pytest.raises(ValueError, match=r"rows \[0, 24\) of blk\.0\.attn_q\.weight cut a head of 16"):
        source.matrix("layers.0.q", "auto", rows=(0, 24))
    assert source.matrix("layers.0.v", "auto", rows=(0, 24)).shape == (24, 64)


def test_biases_of_a_gguf_file(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    biases = {
        f"blk.{layer}.attn_{name}.bias": rng.standard_normal(length).astype("f4")
        for layer in range(4)
        for name, length in (("q", 64), ("k", 32), ("v", 32))
    }
    source = open_weights(write_gguf(tmp_path / "m.gguf", "llama", {**tiny_llama_tensors(), **biases}))
    for name in ("q_bias", "k_bias", "v_bias"):
        whole = source.vector(f"layers.0.{name}")
        np.testing.assert_array_equal(source.vector(f"layers.0.{name}", span=(16, 32)), whole[16:32])
        assert source.vector(f"layers.0.{name}", span=(32, 32)).shape == (0,)
    assert not np.array_equal(source.vector("layers.0.q_bias"), biases["blk.0.attn_q.bias"])
    with pytest.raises(ValueError, match="cut a head"):
        source.vector("layers.0.q_bias", span=(0, 8))


def write_phi3(directory: Path, dtype: str) -> Path:
    """One layer with fused qkv and gate_up, as transformers writes it."""
    rng = np.random.default_rng(5)
    layer = {"self_attn.qkv_proj": (128, 64), "self_attn.o_proj": (64, 64), "mlp.gate_up_proj": (192, 64)}
    shapes = {f"model.layers.0.{name}.weight": shape for name, shape in {**layer, "mlp.down_proj": (64, 96)}.items()}
    shapes |= {f"model.layers.0.{name}_layernorm.weight": (64,) for name in ("input", "post_attention")}
    shapes |= {"model.embed_tokens.weight": (320, 64), "model.norm.weight": (64,)}
    config = {
        "model_type": "phi3",
        "vocab_size": 320,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": True,
    }
    (directory / "config.json").write_text(json.dumps(config))
    tensors = {name: rng.standard_normal(shape).astype(dtype) for name, shape in shapes.items()}
    save_file(tensors, directory / "model.safetensors")
    return directory


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_matrices_of_a_safetensors_directory(tmp_path: Path, dtype: str) -> None:
    pytest.importorskip("ml_dtypes", reason="bfloat16 for NumPy")
    source = open_weights(write_phi3(tmp_path, dtype))
    for name, rows, columns in (
        ("layers.0.q", 64, 64),
        ("layers.0.k", 32, 64),
        ("layers.0.v", 32, 64),
        ("layers.0.o", 64, 64),
        ("layers.0.gate", 96, 64),
        ("layers.0.up", 96, 64),
        ("layers.0.down", 64, 96),
        ("head", 320, 64),
    ):
        check_parts(source, name, 9, rows=rows, columns=columns)
    whole = source.vector("layers.0.attn_norm")
    np.testing.assert_array_equal(source.vector("layers.0.attn_norm", span=(3, 11)), whole[3:11])


def test_only_the_wanted_part_of_the_file_is_mapped_into_the_result(tmp_path: Path) -> None:
    """fp32 parts are views of the file: nothing of the rest is read."""
    source = open_weights(write_phi3(tmp_path, "float32"))
    part = source.matrix("layers.0.down", "fp32", rows=(3, 9), columns=(32, 64))
    assert isinstance(part, DenseWeight)
    assert not part.values_NK.flags.owndata
    assert not part.values_NK.flags.writeable


@pytest.mark.parametrize("given_range", [(-1, 2), (3, 2), (0, 11)])
def test_ranges_that_are_not_there(given_range: Range, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is not within 10"):
        resolve_range(given_range, 10)
    assert resolve_range(None, 10) == (0, 10)
    source = open_weights(make_tiny_gguf(tmp_path))
    with pytest.raises(ValueError, match="not within"):
        source.matrix("layers.0.v", "auto", rows=(0, 33))
