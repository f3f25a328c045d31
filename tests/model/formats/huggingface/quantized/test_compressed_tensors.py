"""Weights that the compressed-tensors library has written are what it reads from them itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from shoal.model.formats.open_weights import open_weights
from shoal.model.formats.quantization import dequantize
from tests.model.formats.huggingface.quantized.coded_files import Case, write_quantized
from tests.model.formats.huggingface.quantized.test_methods import HF_NAMES
from tests.model.tiny_models import make_tiny_model

torch = pytest.importorskip("torch")
compressed_tensors = pytest.importorskip("compressed_tensors")
ARGS: dict[str, dict[str, Any]] = {
    "pack-quantized": {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": 32},
    "pack-quantized asymmetric": {"num_bits": 4, "type": "int", "symmetric": False, "strategy": "channel"},
    "pack-quantized by 8": {"num_bits": 8, "type": "int", "symmetric": False, "strategy": "group", "group_size": 64},
    "int-quantized": {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel"},
    "float-quantized": {"num_bits": 8, "type": "float", "symmetric": True, "strategy": "tensor"},
    "float-quantized rows": {"num_bits": 8, "type": "float", "symmetric": True, "strategy": "channel"},
    "float-quantized blocks": {
        "num_bits": 8,
        "type": "float",
        "symmetric": True,
        "strategy": "block",
        "block_structure": [32, 64],
    },
}


def compress(form: str, args: dict[str, Any], rng: np.random.Generator, num_rows: int, num_columns: int):
    """What the library makes of random weights, and what it makes of that, reading the scales as fp32."""
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
    from compressed_tensors.quantization.utils import calculate_qparams

    scheme = QuantizationScheme(targets=["Linear"], weights=QuantizationArgs(**args))
    weight = torch.from_numpy(rng.standard_normal((num_rows, num_columns)).astype(np.float32))
    height, width = {
        "group": (1, args.get("group_size")),
        "channel": (1, num_columns),
        "tensor": (num_rows, num_columns),
        "block": args.get("block_structure"),
    }[args["strategy"]]
    tiles = weight.reshape(num_rows // height, height, num_columns // width, width)
    scale, zero_point = calculate_qparams(tiles.amin(dim=(1, 3)), tiles.amax(dim=(1, 3)), scheme.weights)
    if args["strategy"] == "tensor":
        scale, zero_point = scale.reshape(1), zero_point.reshape(1)
    compressor = BaseCompressor.get_value_from_registry(form.partition(" ")[0])
    state = {"weight": weight, "weight_scale": scale.to(torch.bfloat16)}
    if not args["symmetric"]:
        state["weight_zero_point"] = zero_point
    made = compressor.compress(state, scheme)
    values = compressor.decompress({**made, "weight_scale": made["weight_scale"].float()}, scheme)["weight"].numpy()
    return {name: as_numpy(tensor) for name, tensor in made.items()}, values


def as_numpy(tensor) -> np.ndarray:
    import ml_dtypes

    if tensor.dtype == torch.float8_e4m3fn:
        return tensor.view(torch.uint8).numpy().view(ml_dtypes.float8_e4m3fn)
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.contiguous().numpy()


@pytest.mark.parametrize("form", ARGS)
def test_what_the_library_writes(form: str, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    args = ARGS[form]
    settings = {
        "quant_method": "compressed-tensors",
        "format": form.partition(" ")[0],
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": args}},
    }
    case = Case(settings=settings, make=lambda rng, rows, columns: compress(form, args, rng, rows, columns), bits=8)
    model = make_tiny_model("llama", tmp_path / "tiny", num_hidden_layers=2)
    values = write_quantized(model, tmp_path / "model", case)
    source = open_weights(tmp_path / "model")
    floats = load_file(model / "model.safetensors")
    for leaf, tensor in HF_NAMES.items():
        read = dequantize(source.matrix(f"layers.0.{leaf}", "auto"))
        np.testing.assert_array_equal(read, values[f"model.layers.0.{tensor}"], err_msg=leaf)
    kept = "model.layers.1.self_attn.o_proj.weight"
    np.testing.assert_array_equal(dequantize(source.matrix("layers.1.o", "auto")), floats[kept].astype(np.float32))
