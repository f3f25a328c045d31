"""Quantized Hugging Face directories, written bit by bit as each format's own documents say, and what they stand for.

Nothing here uses Shoal: weights are drawn as codes, scales and zero points, and their values are computed from those.
Shapes: N rows, K columns, P scales a row.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors.numpy import load_file, save_file

from tests.native.gemm.packed_parts import NF4

F32 = np.ndarray
Made = tuple[dict[str, np.ndarray], F32]
"""the tensors of a matrix, by the end of their names, and its values [N, K] in fp32"""
_LINEAR = (
    *("q_proj", "k_proj", "v_proj", "qkv_proj", "o_proj", "gate_proj", "up_proj", "gate_up_proj", "down_proj"),
    *("q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj"),
    *("query_key_value", "attention.dense", "dense_h_to_4h", "dense_4h_to_h"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A way of quantizing."""

    settings: Mapping[str, Any]
    make: Callable[[np.random.Generator, int, int], Made]
    bits: float
    """a weight in the packed form, for matrices of whole tiles of K = 64 or 128"""
    is_integer: bool = True
    """whether activations are quantized for its products"""


def scales_like(rng: np.random.Generator, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    return rng.uniform(0.002, 0.02, shape).astype(dtype)


def in_words(codes: np.ndarray, bits: int) -> np.ndarray:
    """int32 words along the last axis, the first code in the lowest bits."""
    per_word = 32 // bits
    padded = np.zeros((*codes.shape[:-1], -(-codes.shape[-1] // per_word) * per_word), np.uint64)
    padded[..., : codes.shape[-1]] = codes
    words = padded.reshape(*codes.shape[:-1], -1, per_word)
    shifts = np.arange(per_word, dtype=np.uint64) * np.uint64(bits)
    return (words << shifts).sum(axis=-1).astype(np.uint32).view(np.int32)


def expand(values_NP: np.ndarray, num_columns: int) -> np.ndarray:
    return np.repeat(values_NP, num_columns // values_NP.shape[1], axis=1)


def e4m3(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    return (rng.standard_normal(shape) * 100).clip(-440, 440).astype(ml_dtypes.float8_e4m3fn)


def fp8_blocks(dtype: Any) -> Callable[[np.random.Generator, int, int], Made]:
    def make(rng: np.random.Generator, num_rows: int, num_columns: int) -> Made:
        height, width = 48, 32
        weight = e4m3(rng, (num_rows, num_columns))
        scales = scales_like(rng, (-(-num_rows // height), -(-num_columns // width)), dtype)
        values = np.empty((num_rows, num_columns), np.float32)
        for row in range(num_rows):
            for column in range(num_columns):
                scale = np.float32(scales[row // height, column // width])
                values[row, column] = np.float32(weight[row, column]) * scale
        return {"weight": weight, "weight_scale_inv": scales}, values

    return make


def fp8_rows(shape_of: Callable[[int], tuple[int, ...]], dtype: Any = np.float32, **more: np.ndarray):
    def make(rng: np.random.Generator, num_rows: int, num_columns: int) -> Made:
        weight, scales = e4m3(rng, (num_rows, num_columns)), scales_like(rng, shape_of(num_rows), dtype)
        values = weight.astype(np.float32) * np.broadcast_to(scales.astype(np.float32).reshape(-1, 1), weight.shape)
        return {"weight": weight, "weight_scale": scales, **more}, values

    return make


def whole_numbers(
    rng: np.random.Generator, num_rows: int, num_columns: int, *, bits: int, groups: int, dtype: Any, symmetric: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray, F32]:
    """Unsigned codes, scales and zero points, and the values; groups of neighboring columns."""
    codes = rng.integers(0, 1 << bits, (num_rows, num_columns))
    scales = scales_like(rng, (num_rows, groups), dtype) / np.asarray(1 << (bits - 4), dtype)
    zeros = np.full((num_rows, groups), 1 << (bits - 1))
    if not symmetric:
        zeros = rng.integers(0, 1 << bits, (num_rows, groups))
        zeros[0, :1], zeros[-1, -1:] = 0, (1 << bits) - 1
    levels = (codes - expand(zeros, num_columns)).astype(np.float32)
    return codes, scales, zeros, levels * expand(scales.astype(np.float32), num_columns)


def gptq(bits: int, size: int, *, symmetric: bool, first_version: bool, dtype: Any = np.float16):
    def make(rng: np.random.Generator, num_rows: int, num_columns: int) -> Made:
        groups = 1 if size == -1 else num_columns // size
        codes, scales, zeros, values = whole_numbers(
            rng, num_rows, num_columns, bits=bits, groups=groups, dtype=dtype, symmetric=symmetric
        )
        stored = (zeros - 1) % (1 << bits) if first_version else zeros
        tensors = {
            "qweight": in_words(codes, bits).T,
            "qzeros": in_words(stored.T, bits),
            "scales": scales.T,
            "g_idx": (np.arange(num_columns) // (num_columns // groups)).astype(np.int32),
        }
        return tensors, values

    return make


def gptq_in_activation_order(bits: int, *, symmetric: bool):
    def make(rng: np.random.Generator, num_rows: int, num_columns: int) -> Made:
        groups = num_columns // 32
        g_idx = rng.permutation(np.arange(num_columns) // 32).astype(np.int32)
        codes, scales, zeros, _ = whole_numbers(
            rng, num_rows, num_columns, bits=bits, groups=groups, dtype=np.float16, symmetric=symmetric
        )
        values = (codes - zeros[:, g_idx]).astype(np.float32) * scales.astype(np.float32)[:, g_idx]
        tensors = {
            "qweight": in_words(codes, bits).T,
            "qzeros": in_words((zeros.T - 1) % (1 << bits), bits),
            "scales": scales.T,
            "g_idx": g_idx,
        }
        return tensors, values

    return make


def awq(size: int, dtype: Any = np.float16):
    def make(rng: np.random.Generator, num_rows: int, num_columns: int) -> Made:
        codes, scales, zeros, values = whole_numbers(
            rng, num_rows, num_columns, bits=4, groups=num_columns // size, dtype=dtype, symmetric=False
        )
        # Nibble i of a word is output 8 w + (0, 2, 4, 6, 1, 3, 5, 7)[i].
        order = np.arange(num_rows).reshape(-1, 8)[:, [0, 2, 4, 6, 1, 3, 5, 7]].reshape(-1)
        tensors = {
            "qweight": in_words(codes.T[:, order], 4),
            "qzeros": in_words(zeros.T[:, order], 4),
            "scales": scales.T,
        }
        return tensors, values

    return make


def packed(bits: int, size: int, *, symmetric: bool, dtype: Any):
    def make(rng: np.random.Generator, num_rows: int, num_columns: int) -> Made:
        groups = 1 if size == -1 else num_columns // size
        codes, scales, zeros, values = whole_numbers(
            rng, num_rows, num_columns, bits=bits, groups=groups, dtype=dtype, symmetric=symmetric
        )
        tensors = {
            "weight_packed": in_words(codes, bits),
            "weight_scale": scales,
            "weight_shape": np.array([num_rows, num_columns], np.int64),
        }
        if not symmetric:
            tensors["weight_zero_point"] = in_words(zeros.T, bits).T
        return tensors, values

    return make


def in_bytes(size: int, *, symmetric: bool, dtype: Any):
    def make(rng: np.random.Generator, num_rows: int, num_columns: int) -> Made:
        groups = 1 if size == -1 else num_columns // size
        codes, scales, zeros, values = whole_numbers(
            rng, num_rows, num_columns, bits=8, groups=groups, dtype=dtype, symmetric=symmetric
        )
        tensors = {"weight": (codes - 128).astype(np.int8), "weight_scale": scales}
        if not symmetric:
            tensors["weight_zero_point"] = (zeros - 128).astype(np.int8)
        return tensors, values

    return make


def nf4(*, nested: bool, block: int = 64):
    def make(rng: np.random.Generator, num_rows: int, num_columns: int) -> Made:
        count = num_rows * num_columns
        codes = rng.integers(0, 16, count)
        num_blocks = -(-count // block)
        state = {"quant_type": "nf4", "blocksize": block, "dtype": "bfloat16", "shape": [num_rows, num_columns]}
        tensors = {
            "weight": ((codes[0::2] << 4) | codes[1::2]).astype(np.uint8).reshape(-1, 1),
            "weight.quant_map": NF4,
        }
        if nested:
            values_of = np.sort(rng.uniform(-1, 1, 256).astype(np.float32))
            of_blocks = rng.uniform(0.001, 0.01, -(-num_blocks // 256)).astype(np.float32)
            numbers = rng.integers(0, 256, num_blocks).astype(np.uint8)
            absmax = values_of[numbers] * of_blocks[np.arange(num_blocks) // 256] + np.float32(0.015)
            state |= {"nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": 0.015}
            tensors |= {"weight.nested_quant_map": values_of, "weight.nested_absmax": of_blocks}
            tensors["weight.absmax"] = numbers
        else:
            absmax = scales_like(rng, (num_blocks,), np.float32)
            tensors["weight.absmax"] = absmax
        state_bytes = np.frombuffer(json.dumps(state).encode(), np.uint8)
        tensors["weight.quant_state.bitsandbytes__nf4"] = state_bytes
        values = NF4[codes] * absmax[np.arange(count) // block]
        return tensors, values.reshape(num_rows, num_columns)

    return make


def rows_of_8_bits(rng: np.random.Generator, num_rows: int, num_columns: int) -> Made:
    weight = rng.integers(-127, 128, (num_rows, num_columns)).astype(np.int8)
    largest = rng.uniform(0.2, 2, num_rows).astype(np.float32)
    tensors = {"weight": weight, "SCB": largest, "weight_format": np.zeros((), np.uint8)}
    return tensors, weight.astype(np.float32) * (largest / np.float32(127))[:, None]


def compressed(form: str, **weights: Any) -> dict[str, Any]:
    group = {"targets": ["Linear"], "weights": weights}
    return {"quant_method": "compressed-tensors", "format": form, "config_groups": {"group_0": group}}


BF16 = ml_dtypes.bfloat16
_GPTQ = {"quant_method": "gptq", "desc_act": False}
_AWQ = {"quant_method": "awq", "bits": 4, "zero_point": True, "version": "gemm"}
_BNB = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
_FP8 = {"quant_method": "fp8", "activation_scheme": "dynamic", "fmt": "e4m3", "weight_block_size": [48, 32]}
INPUT_SCALE = {"input_scale": np.ones((), np.float32)}
CASES: dict[str, Case] = {
    "fp8-blocks": Case(settings=_FP8, make=fp8_blocks(np.float32), bits=9, is_integer=False),
    "fp8-blocks-bf16": Case(settings=_FP8, make=fp8_blocks(BF16), bits=8.5, is_integer=False),
    "fp8-tensor": Case(
        settings={"quant_method": "fp8", "activation_scheme": "static"},
        make=fp8_rows(lambda _: (), **INPUT_SCALE),
        bits=8.5,
        is_integer=False,
    ),
    "fbgemm": Case(
        settings={"quant_method": "fbgemm_fp8", "activation_scale_ub": 1200.0},
        make=fp8_rows(lambda num_rows: (num_rows, 1)),
        bits=8.5,
        is_integer=False,
    ),
    "ct-fp8-channel": Case(
        settings=compressed("float-quantized", num_bits=8, type="float", strategy="channel"),
        make=fp8_rows(lambda num_rows: (num_rows, 1), BF16),
        bits=8.25,
        is_integer=False,
    ),
    "ct-int4-group": Case(
        settings=compressed("pack-quantized", num_bits=4, type="int", strategy="group", group_size=32),
        make=packed(4, 32, symmetric=True, dtype=BF16),
        bits=4.5,
    ),
    "ct-int4-asymmetric": Case(
        settings=compressed("pack-quantized", num_bits=4, type="int", symmetric=False, group_size=64),
        make=packed(4, 64, symmetric=False, dtype=np.float16),
        bits=4.75,
    ),
    "ct-int8-packed": Case(
        settings=compressed("pack-quantized", num_bits=8, type="int", strategy="channel"),
        make=packed(8, -1, symmetric=True, dtype=np.float32),
        bits=9,
    ),
    "ct-int8-channel": Case(
        settings=compressed("int-quantized", num_bits=8, type="int", strategy="channel"),
        make=in_bytes(-1, symmetric=True, dtype=BF16),
        bits=8.5,
    ),
    "ct-int8-asymmetric": Case(
        settings=compressed("int-quantized", num_bits=8, type="int", symmetric=False),
        make=in_bytes(32, symmetric=False, dtype=BF16),
        bits=8.75,
    ),
    "gptq-4": Case(
        settings={**_GPTQ, "bits": 4, "group_size": 32, "sym": True},
        make=gptq(4, 32, symmetric=True, first_version=True),
        bits=4.5,
    ),
    "gptq-4-asymmetric": Case(
        settings={**_GPTQ, "bits": 4, "group_size": 64, "sym": False},
        make=gptq(4, 64, symmetric=False, first_version=True),
        bits=4.75,
    ),
    "gptq-8-v2": Case(
        settings={**_GPTQ, "bits": 8, "group_size": -1, "sym": False, "checkpoint_format": "gptq_v2"},
        make=gptq(8, -1, symmetric=False, first_version=False, dtype=BF16),
        bits=8.75,
    ),
    "gptq-4-act-order": Case(
        settings={**_GPTQ, "bits": 4, "group_size": 32, "sym": True, "desc_act": True},
        make=gptq_in_activation_order(4, symmetric=True),
        bits=6.5,
        is_integer=False,
    ),
    "gptq-8-act-order": Case(
        settings={**_GPTQ, "bits": 8, "group_size": 32, "sym": False, "desc_act": True},
        make=gptq_in_activation_order(8, symmetric=False),
        bits=10.75,
        is_integer=False,
    ),
    "awq": Case(settings={**_AWQ, "group_size": 32}, make=awq(32), bits=4.75),
    "awq-bf16": Case(settings={**_AWQ, "group_size": 64}, make=awq(64, BF16), bits=4.75),
    "nf4": Case(settings=_BNB, make=nf4(nested=False), bits=4.5, is_integer=False),
    "nf4-nested": Case(
        settings={**_BNB, "bnb_4bit_use_double_quant": True}, make=nf4(nested=True), bits=4.5, is_integer=False
    ),
    "bnb-8": Case(settings={"quant_method": "bitsandbytes", "load_in_8bit": True}, make=rows_of_8_bits, bits=9),
}


def write_quantized(
    model: Path, directory: Path, case: Case, edit: Callable[[dict[str, np.ndarray]], object] | None = None
) -> dict[str, F32]:
    """A copy of a model with every linear layer but the second layer's `o_proj` and the head quantized. Returns the
    values of all its matrices and vectors, by their names, as an unquantized model would have them.

    `edit` changes the tensors before they are written.
    """
    directory.mkdir()
    config = json.loads((model / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, "quantization_config": case.settings}))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (directory / name).write_bytes((model / name).read_bytes())
    rng = np.random.default_rng(3)
    tensors, values = dict[str, np.ndarray](), dict[str, F32]()
    for name, weight in load_file(model / "model.safetensors").items():
        values[name] = weight.astype(np.float32)
        stem = name.removesuffix(".weight")
        if not stem.endswith(_LINEAR) or name.endswith("layers.1.self_attn.o_proj.weight"):
            tensors[name] = weight
            continue
        made, values[name] = case.make(rng, *weight.shape)
        tensors |= {f"{stem}.{end}": tensor for end, tensor in made.items()}
    if edit is not None:
        edit(tensors)
    save_file({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}, directory / "model.safetensors")
    return values


def write_dense(model: Path, directory: Path, values: Mapping[str, F32]) -> Path:
    """The same model unquantized, in fp32."""
    directory.mkdir()
    config = json.loads((model / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, "dtype": "float32"}))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (directory / name).write_bytes((model / name).read_bytes())
    save_file({name: np.ascontiguousarray(value) for name, value in values.items()}, directory / "model.safetensors")
    return directory
