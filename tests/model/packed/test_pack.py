"""Packed matrices of a model's file stand for the values that the file's reader gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType as Kind
from gguf.constants import GGML_QUANT_SIZES

from shoal.model.attention.paged_attention import native_available
from shoal.model.formats.gguf.blocks import SUPPORTED, choose_form, to_weight
from shoal.model.formats.gguf.packing import PACKED_KINDS, keeps_values, packing_of
from shoal.model.formats.open_weights import open_sizes, open_weights
from shoal.model.formats.quantization import dequantize
from shoal.model.formats.settings_only import SettingsOnly
from shoal.model.formats.tensor_check import layer_shapes
from shoal.model.shard.source import ShardSource
from shoal.model.weights import BlockWeight, DenseWeight, Packing, Precision, WeightSource
from shoal.protocol.stage_config import ShardPart
from tests.model.tiny_models import make_tiny_gguf, make_tiny_model

pytestmark = pytest.mark.skipif(not native_available(), reason="the native extension is not built")
PRECISIONS: tuple[Precision, ...] = ("auto", "fp32", "int8", "int4")
PART = ShardPart(kv_heads=(1, 2), columns=(32, 96), vocabulary=(96, 320))
NO_HEADS = ShardPart(kv_heads=(2, 2), columns=(0, 128), vocabulary=(0, 320))


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module", params=["Q4_0", "Q4_1", "Q8_0", "Q5_0", "F16", "F32"])
def gguf_source(request: pytest.FixtureRequest, directory: Path) -> WeightSource:
    return open_weights(make_tiny_gguf(directory, quant=request.param))


def names_of(source: WeightSource) -> list[str]:
    leaves = [leaf for leaf, shape in layer_shapes(source.config, 1).items() if len(shape) == 2]
    return ["embedding", *(f"layers.1.{leaf}" for leaf in leaves), "head"]


def packed_values(source: WeightSource, precision: Precision) -> dict[str, np.ndarray]:
    from shoal._native import ThreadPool
    from shoal.model.packed.memory import own_memory
    from shoal.model.packed.pack import arrange, matrices_in, pack

    arrangement = arrange(source, names_of(source), precision)
    memory = own_memory(arrangement.num_bytes)
    pack(source, arrangement, precision, ThreadPool(2), memory)
    return {name: unpacked(matrix) for name, matrix in matrices_in(arrangement, memory).items()}


def unpacked(matrix) -> np.ndarray:
    values = np.empty(matrix.shape, np.float32)
    matrix.unpack_rows(np.arange(matrix.shape[0], dtype=np.int32), values)
    return values


def check_values(source: WeightSource, precision: Precision) -> None:
    for name, values in packed_values(source, precision).items():
        is_raw = source.raw_rows(name, precision) is not None
        expected = dequantize(source.matrix(name, "fp32" if is_raw else precision))
        np.testing.assert_array_equal(values, expected, err_msg=name)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_whole_gguf(gguf_source: WeightSource, precision: Precision) -> None:
    """Rows of q and k lie in another order there."""
    check_values(gguf_source, precision)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_part_of_a_gguf(gguf_source: WeightSource, precision: Precision) -> None:
    check_values(ShardSource(gguf_source, PART), precision)


@pytest.mark.parametrize("family", ["llama", "phi3"])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_safetensors(family: str, precision: Precision, directory: Path) -> None:
    pytest.importorskip("transformers")
    check_values(open_weights(make_tiny_model(family, directory)), precision)


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_rows_that_are_quantized_some_at_a_time(
    precision: Precision, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of one tile, and in a vocabulary of 307 tokens fewer in the last one."""
    pytest.importorskip("transformers")
    monkeypatch.setattr("shoal.model.packed.pack._WEIGHTS_AT_ONCE", 1)
    check_values(open_weights(make_tiny_model("llama", directory, vocab_size=307)), precision)


def test_a_shard_without_heads_has_no_attention_matrices(gguf_source: WeightSource) -> None:
    values = packed_values(ShardSource(gguf_source, NO_HEADS), "auto")
    assert {name.rpartition(".")[2] for name in values} == {"embedding", "gate", "up", "down", "head"}


@pytest.mark.parametrize("precision", PRECISIONS)
def test_bytes_are_known_from_the_header(gguf_source: WeightSource, precision: Precision) -> None:
    from shoal.model.packed.pack import arrange, packed_bytes

    for source in (gguf_source, ShardSource(gguf_source, NO_HEADS)):
        names = names_of(source)
        total = sum(packed_bytes(source, name, precision) for name in names)
        assert total == arrange(source, names, precision).num_bytes


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_settings_alone_tell_the_bytes(dtype: str, directory: Path) -> None:
    import json

    from shoal.model.packed.pack import packed_bytes

    pytest.importorskip("transformers")
    model = make_tiny_model("llama", directory)
    settings = {**json.loads((model / "config.json").read_text()), "dtype": dtype}
    path = directory / f"{dtype}.json"
    path.write_text(json.dumps(settings))
    source = open_sizes(path)
    assert isinstance(source, SettingsOnly)
    for name in names_of(source):
        item_bytes = 4 if dtype == "float32" else 2
        assert source.packing(name, "auto").shape == open_weights(model).packing(name, "auto").shape
        num_outputs, num_inputs = source.packing(name, "auto").shape
        assert packed_bytes(source, name, "auto") == -(-num_outputs // 16) * 16 * num_inputs * item_bytes


@pytest.mark.parametrize("kind", sorted(SUPPORTED), ids=lambda kind: kind.name)
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("is_vocabulary", [False, True])
def test_every_kind_can_be_packed_as_its_header_says(kind: Kind, precision: Precision, is_vocabulary: bool) -> None:
    """For those without a packed form of their own, the form of what the file's reader makes of them."""
    from shoal._native import Matrix, ThreadPool, layout_bytes
    from shoal.model.packed.memory import own_memory
    from shoal.model.packed.pack import pack_weight, packed_form

    form = choose_form(kind, precision, num_columns=256, is_vocabulary=is_vocabulary)
    packing = packing_of(kind, form, 5, (0, 256))
    if keeps_values(kind, form):
        assert packing.kind == kind
        return
    block_weights, block_bytes = GGML_QUANT_SIZES[kind]
    rows = np.random.default_rng(1).integers(0, 60, (5, 256 // block_weights * block_bytes), dtype=np.uint8)
    with np.errstate(all="ignore"):
        weight = to_weight(rows, kind, form)
    packed = packed_form(packing)
    memory = own_memory(layout_bytes(packed))
    pack_weight(weight, packed, ThreadPool(1), memory)
    np.testing.assert_array_equal(unpacked(Matrix(packed, memory)), dequantize(weight))


def test_what_is_kept_is_not_narrowed_or_computed_in_fp32() -> None:
    assert all(keeps_values(kind, "own") for kind in PACKED_KINDS)
    assert not any(keeps_values(kind, "int4") for kind in PACKED_KINDS)
    assert keeps_values(Kind.Q6_K, "int8")
    assert not keeps_values(Kind.BF16, "int8")
    assert not keeps_values(Kind.Q4_0, "dense")
    assert not keeps_values(Kind.IQ3_S, "own")


def test_columns_that_cut_a_block_are_refused(gguf_source: WeightSource) -> None:
    if gguf_source.packing("layers.0.down", "auto").kind in (Kind.F16, Kind.F32):
        return
    with pytest.raises(ValueError, match="cut a quantization block"):
        gguf_source.packing("layers.0.down", "auto", columns=(0, 40))


@pytest.mark.parametrize("in_half", [False, True])
def test_the_form_of_a_weight_without_a_file(in_half: bool) -> None:
    from shoal._native import ThreadPool, layout_bytes
    from shoal.model.packed.memory import own_memory
    from shoal.model.packed.pack import pack_weight, weight_form

    scales = np.full((3, 2), 0.5 if in_half else 0.1, np.float32)
    weight = BlockWeight(bits=8, q_NGB=np.zeros((3, 2, 32), np.uint8), scales_NG=scales)
    form = weight_form(weight)
    assert layout_bytes(form) == 2 * 8 * 64 + 64 * (1 if in_half else 2)
    pack_weight(weight, form, ThreadPool(1), own_memory(layout_bytes(form)))
    dense = DenseWeight(values_NK=np.ones((3, 5), np.float32))
    assert layout_bytes(weight_form(dense)) == 16 * 5 * 4


def test_a_matrix_without_inputs_has_no_form() -> None:
    from shoal.model.packed.pack import packed_form

    with pytest.raises(ValueError, match="cannot have this form"):
        packed_form(Packing(kind=Kind.F32, shape=(4, 0)))
