"""Every quantization of Hugging Face directories against NumPy's own reading of what was written."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shoal.core.plan.language import ShardPart
from shoal.errors import ModelLoadError
from shoal.model.attention.paged_attention import native_available
from shoal.model.formats.open_weights import open_weights
from shoal.model.formats.quantization import dequantize, quantize_rows
from shoal.model.shard.source import ShardSource
from tests.model.formats.huggingface.quantized.coded_files import CASES, nf4, write_quantized
from tests.model.packed.test_pack import names_of, packed_values
from tests.model.tiny_models import make_tiny_model

PART = ShardPart(kv_heads=(1, 2), columns=(32, 96), vocabulary=(96, 320))
HF_NAMES = {
    **{leaf: f"self_attn.{leaf}_proj.weight" for leaf in ("q", "k", "v", "o")},
    **{leaf: f"mlp.{leaf}_proj.weight" for leaf in ("gate", "up", "down")},
}
every_case = pytest.mark.parametrize("case", CASES)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("transformers")
    return make_tiny_model("llama", tmp_path_factory.mktemp("models"), num_hidden_layers=2)


@pytest.fixture(scope="module")
def written(
    tiny: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], tuple[Path, dict[str, np.ndarray]]]:
    root, made = tmp_path_factory.mktemp("coded"), dict[str, tuple[Path, dict[str, np.ndarray]]]()

    def write(case: str) -> tuple[Path, dict[str, np.ndarray]]:
        if case not in made:
            made[case] = root / case, write_quantized(tiny, root / case, CASES[case])
        return made[case]

    return write


def expected_of(values: dict[str, np.ndarray], name: str) -> np.ndarray:
    if name in ("embedding", "head"):
        return values["lm_head.weight" if name == "head" else "model.embed_tokens.weight"]
    _, layer, leaf = name.split(".")
    return values[f"model.layers.{layer}.{HF_NAMES[leaf]}"]


@every_case
def test_values_are_exact(case: str, written) -> None:
    path, values = written(case)
    source = open_weights(path)
    for layer in range(2):
        for leaf in HF_NAMES:
            name = f"layers.{layer}.{leaf}"
            expected = expected_of(values, name)
            for precision in ("fp32", "auto"):
                np.testing.assert_array_equal(dequantize(source.matrix(name, precision)), expected, err_msg=name)


@every_case
def test_parts_are_those_of_the_whole(case: str, written) -> None:
    whole = open_weights(written(case)[0])
    for precision in ("auto", "fp32", "int8", "int4"):
        for name, rows, columns in (("layers.0.down", (16, 48), (32, 96)), ("layers.1.q", (16, 32), (32, 64))):
            part = dequantize(whole.matrix(name, precision, rows=rows, columns=columns))
            assert (
                whole.matrix_bytes(name, precision, rows=rows, columns=columns)
                == whole.matrix(name, precision, rows=rows, columns=columns).num_bytes
            )
            np.testing.assert_array_equal(
                part, dequantize(whole.matrix(name, precision))[slice(*rows), slice(*columns)], err_msg=name
            )


@pytest.mark.skipif(not native_available(), reason="the native extension is not built")
@every_case
def test_packed_matrices_hold_the_values(case: str, written) -> None:
    path, values = written(case)
    whole = open_weights(path)
    for source in (whole, ShardSource(whole, PART)):
        for precision in ("auto", "int8", "int4"):
            for name, held in packed_values(source, precision).items():
                is_kept = source.raw_rows(name, precision) is not None
                expected = dequantize(source.matrix(name, "fp32" if is_kept else precision))
                np.testing.assert_array_equal(held, expected, err_msg=f"{name} {precision}")
        if source is whole:
            for name, held in packed_values(source, "auto").items():
                np.testing.assert_array_equal(held, expected_of(values, name), err_msg=name)


@pytest.mark.skipif(not native_available(), reason="the native extension is not built")
@every_case
def test_a_matrix_takes_the_bits_that_the_page_says(case: str, written) -> None:
    from shoal.model.packed.pack import packed_bytes

    source = open_weights(written(case)[0])
    for name in ("layers.0.gate", "layers.0.q"):
        num_weights = np.prod(source.packing(name, "auto").shape)
        extra = 64 * 4 if "act-order" in case else 0
        assert packed_bytes(source, name, "auto") <= num_weights * CASES[case].bits / 8 + extra


@every_case
def test_what_narrows_is_quantized_again(case: str, written) -> None:
    path, values = written(case)
    source, narrow = open_weights(path), "4" in case.split("-", 1)[-1][:5] or case.startswith(("awq", "nf4"))
    again = source.matrix("layers.0.up", "int4")
    expected = values["model.layers.0.mlp.up_proj.weight"]
    if not narrow:
        expected = dequantize(quantize_rows(expected, 4))
    np.testing.assert_array_equal(dequantize(again), expected)


def change_settings(path: Path, change: dict[str, Any]) -> None:
    config = json.loads((path / "config.json").read_text())
    config["quantization_config"] |= change
    (path / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("case", "change", "message"),
    [
        ("gptq-4", {"bits": 3}, "'bits' is 3"),
        ("gptq-4", {"checkpoint_format": "marlin"}, "'checkpoint_format' 'marlin'"),
        ("gptq-4", {"dynamic": {"+:.*up.*": {"bits": 8}}}, "settings of its own"),
        ("gptq-4", {"group_size": 48}, "'group_size' is 48"),
        ("awq", {"version": "gemv"}, "'gemv' of AWQ"),
        ("ct-int4-group", {"format": "nvfp4-pack-quantized"}, "'nvfp4-pack-quantized' of compressed-tensors"),
        ("ct-int4-group", {"sparsity_config": {"format": "sparse-24-bitmask"}}, "'sparsity_config'"),
        ("fp8-blocks", {"weight_block_size": [64, 64]}, "not scales of"),
        ("nf4", {"quant_method": "hqq"}, "quantization 'hqq' is not supported; there are fp8"),
    ],
)
def test_settings_that_are_not_supported_are_named(case: str, change: dict[str, Any], message: str, tiny, tmp_path):
    write_quantized(tiny, tmp_path / "model", CASES[case])
    change_settings(tmp_path / "model", change)
    with pytest.raises(ModelLoadError, match=message):
        open_weights(tmp_path / "model")


UP = "model.layers.0.mlp.up_proj"
BROKEN: dict[str, tuple[str, Callable[[dict[str, np.ndarray]], object], str]] = {
    "not scales": ("fp8-blocks", lambda all: all.pop(f"{UP}.weight_scale_inv"), "no tensor .*weight_scale"),
    "no zero points": ("awq", lambda all: all.pop(f"{UP}.qzeros"), "no tensor .*qzeros"),
    "few scales": (
        "gptq-4",
        lambda all: all.update({f"{UP}.scales": all[f"{UP}.scales"][:1]}),
        "1 groups of 64 columns",
    ),
    "groups": (
        "gptq-4",
        lambda all: all.update({f"{UP}.g_idx": np.full(64, 2, np.int32)}),
        "names a group that is not one of the 2",
    ),
    "words": (
        "ct-int4-group",
        lambda all: all.update({f"{UP}.weight_packed": all[f"{UP}.weight_packed"][:, :5]}),
        "5 words a row",
    ),
    "map": ("nf4", lambda all: all.update({f"{UP}.weight.quant_map": np.zeros(16, np.float32)}), "other values"),
    "state": (
        "nf4-nested",
        lambda all: all.update({f"{UP}.weight.quant_state.bitsandbytes__nf4": np.frombuffer(b'{"a"', np.uint8)}),
        "cannot be read as JSON",
    ),
}


@pytest.mark.parametrize("broken", BROKEN)
def test_damaged_files_are_refused(broken: str, tiny, tmp_path: Path) -> None:
    case, edit, message = BROKEN[broken]
    write_quantized(tiny, tmp_path / "model", CASES[case], edit)
    with pytest.raises(ModelLoadError, match=message):
        open_weights(tmp_path / "model")


def test_weights_that_are_no_numbers_are_refused(tiny, tmp_path: Path) -> None:
    case = CASES["fp8-tensor"]
    write_quantized(tiny, tmp_path / "model", case, lambda all: all[f"{UP}.weight"].__setitem__((3, 5), np.nan))
    source = open_weights(tmp_path / "model")
    with pytest.raises(ModelLoadError, match="not a number"):
        source.matrix("layers.0.up", "auto")


def test_zero_points_of_a_symmetric_file(tiny, tmp_path: Path) -> None:
    """One that says it is symmetric and is not would be read wrongly by whoever believes it."""
    write_quantized(tiny, tmp_path / "model", CASES["gptq-4-asymmetric"])
    change_settings(tmp_path / "model", {"sym": True})
    source = open_weights(tmp_path / "model")
    with pytest.raises(ModelLoadError, match="is not symmetric, though 'sym' says so"):
        source.matrix("layers.0.up", "auto")


def test_biases_of_zeros_are_left_out_and_others_are_not(tiny, tmp_path: Path) -> None:
    for name, bias in (("zeros", np.zeros(128, np.float16)), ("others", np.ones(128, np.float16))):
        write_quantized(tiny, tmp_path / name, CASES["gptq-4"], lambda all: all.update({f"{UP}.bias": bias}))  # noqa: B023
    open_weights(tmp_path / "zeros")
    with pytest.raises(ModelLoadError, match="does not use"):
        open_weights(tmp_path / "others")


def test_rows_that_are_no_whole_blocks(tmp_path: Path) -> None:
    """Blocks of 64 neighboring weights begin anywhere in a row of 100."""
    model = make_tiny_model("llama", tmp_path / "tiny", hidden_size=100, intermediate_size=84, num_hidden_layers=2)
    case = replace(CASES["nf4"], make=nf4(nested=True))
    values = write_quantized(model, tmp_path / "model", case)
    source = open_weights(tmp_path / "model")
    for name in names_of(source):
        np.testing.assert_array_equal(dequantize(source.matrix(name, "auto")), expected_of(values, name))
    if native_available():
        for name, held in packed_values(source, "auto").items():
            np.testing.assert_array_equal(held, expected_of(values, name), err_msg=name)
