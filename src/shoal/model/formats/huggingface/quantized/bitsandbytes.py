"""bitsandbytes: NF4 in blocks of neighboring weights, whose scales may be quantized too, and rows of 8 bits.

Source: QLoRA, arXiv 2305.14314; LLM.int8(), arXiv 2208.07339; bitsandbytes, functional.py (`QuantState`).
"""

from __future__ import annotations

from collections.abc import Mapping
from math import gcd, prod
from typing import Any

import numpy as np

from shoal.arrays import F32, U8
from shoal.model.formats.huggingface.quantized.coded_matrix import NF4_VALUES, CodedMatrix
from shoal.model.formats.huggingface.quantized.fp8 import byte_codes
from shoal.model.formats.huggingface.quantized.tensors import TensorFinder, floats
from shoal.model.formats.huggingface.tensor_files import Tensor
from shoal.model.formats.model_file import parse_json
from shoal.model.weights import CodedKind, Range

_STATE = ".quant_state.bitsandbytes__"
_PARTS = ("absmax", "quant_map", "nested_absmax", "nested_quant_map")
_LARGEST = np.float32(127)
"""Code of a row's largest weight."""
_SIGN = np.uint8(0x80)


def find_bitsandbytes(finder: TensorFinder, settings: Mapping[str, Any]) -> list[CodedMatrix]:
    """All matrices that bitsandbytes has quantized. Raises ModelLoadError."""
    del settings  # the tensors say everything
    fours = [name.split(_STATE) for name in finder.tensors if _STATE in name]
    found = [_four_bits(finder, name, kind) for name, kind in fours]
    return found + [_eight_bits(finder, stem) for stem in finder.stems(".SCB")]


def _four_bits(finder: TensorFinder, name: str, kind: str) -> CodedMatrix:
    """`X.weight` as bytes with two weights each, the first one in the high nibble."""
    if kind != "nf4":
        raise finder.refuse(name, f"is of the type {kind!r:.50} of bitsandbytes, which is not supported: nf4 is")
    state_name = f"{name}{_STATE}{kind}"
    state = parse_json(f"{finder.where}: {state_name}", finder.find(state_name, "U8").items("u1").tobytes())
    shape: Any = state.get("shape")
    block: Any = state.get("blocksize")
    packed = finder.find(name, "U8")
    if not (_are_counts(shape) and len(shape) == 2 and _are_counts([block]) and shape[1] % 2 == 0):
        raise finder.refuse(name, f"has the shape {shape!r:.50} in blocks of {block!r:.50}, which is not supported")
    num_rows, num_columns = shape
    absmax = finder.find(f"{name}.absmax", "U8", "F32")
    num_blocks = -(-num_rows * num_columns // block)
    if prod(packed.shape) * 2 != num_rows * num_columns or prod(absmax.shape) != num_blocks:
        raise finder.refuse(name, f"and its scales are not those of {shape} weights in blocks of {block}")
    if not np.array_equal(floats(finder.find(f"{name}.quant_map", "F32")).ravel(), NF4_VALUES):
        raise finder.refuse(f"{name}.quant_map", "holds other values than NF4's")
    part = gcd(num_columns, block)
    scales = _NestedScales(finder, name, absmax, state)

    def read_codes(rows: Range, columns: Range) -> U8:
        pairs = packed.items("u1").reshape(num_rows, num_columns // 2)[rows[0] : rows[1]]
        first = columns[0] // 2
        pairs = pairs[:, first : -(-columns[1] // 2)]
        codes: U8 = np.stack((pairs >> np.uint8(4), pairs & np.uint8(15)), axis=-1).reshape(len(pairs), -1)
        return codes[:, columns[0] - 2 * first : columns[1] - 2 * first]

    def read_scales(rows: Range) -> F32:
        starts_NP = np.arange(*rows)[:, None] * num_columns + np.arange(0, num_columns, part)
        return scales.of(starts_NP // block)

    return CodedMatrix(
        where=finder.where,
        name=name,
        tensors=frozenset((name, state_name, *(f"{name}.{part}" for part in _PARTS))),
        shape=(num_rows, num_columns),
        kind=CodedKind(codes="nf4", scales="float", part_inputs=part),
        read_codes=read_codes,
        read_scales=read_scales,
    )


class _NestedScales:
    """Scales of blocks: fp32, or bytes that index values, which have scales and one offset of their own."""

    def __init__(self, finder: TensorFinder, name: str, absmax: Tensor, state: Mapping[str, Any]) -> None:
        self._absmax = absmax
        if absmax.dtype == "F32":
            return
        self._values = floats(finder.find(f"{name}.nested_quant_map", "F32")).ravel()
        self._scales = floats(finder.find(f"{name}.nested_absmax", "F32")).ravel()
        self._block, offset = state.get("nested_blocksize"), state.get("nested_offset")
        sizes = (self._values.size, self._scales.size * self._block if type(self._block) is int else 0)
        if sizes[0] != 256 or sizes[1] < prod(absmax.shape) or type(offset) not in (int, float):
            raise finder.refuse(name, "has scales that are quantized in a way that is not supported")
        self._offset = np.float32(offset)

    def of(self, blocks: np.ndarray) -> F32:
        """The scales of the blocks with these numbers."""
        if self._absmax.dtype == "F32":
            return self._absmax.items("<f4")[blocks]
        values = self._values[self._absmax.items("u1")[blocks]]
        return values * self._scales[blocks // self._block] + self._offset


def _eight_bits(finder: TensorFinder, stem: str) -> CodedMatrix:
    """`X.weight` as signed bytes, and `X.SCB`, the largest magnitude of each row."""
    name, scale_name = f"{stem}.weight", f"{stem}.SCB"
    tensor, largest = finder.find(name, "I8"), finder.find(scale_name, "F32")
    if len(tensor.shape) != 2:
        raise finder.refuse(name, f"has the shape {list(tensor.shape)}, no matrix's")
    finder.require_shape(scale_name, largest, tensor.shape[0])
    return CodedMatrix(
        where=finder.where,
        name=name,
        tensors=frozenset((name, scale_name, f"{stem}.weight_format")),
        shape=(tensor.shape[0], tensor.shape[1]),
        kind=CodedKind(codes="int8", scales="float", part_inputs=tensor.shape[1]),
        read_codes=lambda rows, columns: byte_codes(tensor, rows, columns) ^ _SIGN,
        read_scales=lambda rows: floats(largest)[rows[0] : rows[1], None] / _LARGEST,
    )


def _are_counts(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and value > 0 for value in values)
