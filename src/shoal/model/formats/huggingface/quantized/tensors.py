"""What the files of all quantizations have in common: scales of several shapes, and codes in words of 32 bits.

Shapes: N rows, K columns, P scales a row, W words.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from shoal.arrays import F32, I32, U8
from shoal.errors import ModelLoadError
from shoal.model.formats.huggingface.tensor_files import Tensor
from shoal.model.weights import NumberKind, Range

ITEM_BYTES = {
    **{"F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E8M0": 1},
    **{"I64": 8, "I32": 4, "I8": 1, "U8": 1},
}
NUMBER_KINDS: Mapping[str, NumberKind] = {"F32": "float", "F16": "half", "BF16": "bfloat", "F8_E8M0": "float"}
"""Types of scales, and the number formats in which they are held."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorFinder:
    """The tensors of a directory, each checked when it is looked up."""

    where: Path
    tensors: Mapping[str, Tensor]

    def stems(self, suffix: str) -> list[str]:
        """Names of tensors with this suffix, without it."""
        return [name.removesuffix(suffix) for name in self.tensors if name.endswith(suffix)]

    def find(self, name: str, *types: str) -> Tensor:
        """A tensor that must have one of these types. Raises ModelLoadError."""
        if name not in self.tensors:
            raise ModelLoadError(f"{self.where}: there is no tensor {name!r}")
        tensor = self.tensors[name]
        if tensor.dtype not in types:
            raise ModelLoadError(f"{self.where}: {name} has type {tensor.dtype}; supported: {', '.join(types)}")
        needed = prod(tensor.shape) * ITEM_BYTES[tensor.dtype]
        if tensor.num_bytes != needed:
            raise ModelLoadError(
                f"{self.where}: {name} has {tensor.num_bytes} bytes, its shape {list(tensor.shape)} needs {needed}"
            )
        return tensor

    def require_shape(self, name: str, tensor: Tensor, *shape: int) -> None:
        """Raises ModelLoadError if a tensor has another shape."""
        if tensor.shape != shape:
            raise ModelLoadError(f"{self.where}: {name} has the shape {list(tensor.shape)}, not {list(shape)}")

    def refuse(self, name: str, why: str) -> ModelLoadError:
        """The error for a tensor that is not supported, to be raised."""
        return ModelLoadError(f"{self.where}: {name} {why}; give the unquantized model or a GGUF file")


def floats(tensor: Tensor) -> F32:
    """All items of a tensor of floats in fp32, in its shape."""
    match tensor.dtype:
        case "F16":
            values = tensor.items("<f2").astype(np.float32)
        case "BF16":
            values = (tensor.items("<u2").astype(np.uint32) << 16).view(np.float32)
        case "F8_E8M0":
            values = np.exp2(tensor.items("u1").astype(np.float32) - 127)
        case _:
            values = tensor.items("<f4")
    return values.reshape(tensor.shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scales:
    """Scales of a matrix, read by rows."""

    part_inputs: int
    """Inputs that share a scale."""
    numbers: NumberKind
    read: Callable[[Range], F32]
    """Scales [N, P] of a range of rows."""


def scales_of(finder: TensorFinder, name: str, shape: tuple[int, int], *, block: Sequence[Any] | None = None) -> Scales:
    """The scales in a tensor: one for the matrix, for each row, for each group of neighboring columns, or for each
    block.

    Args:
        finder: finds the tensor.
        name: of the tensor.
        shape: [N, K] of the matrix.
        block: rows and columns of a block, if there are blocks.

    Raises:
        ModelLoadError: the tensor is missing, or has an impossible type or shape.
    """
    tensor = finder.find(name, *NUMBER_KINDS)
    num_rows, num_columns = shape
    kind = NUMBER_KINDS[tensor.dtype]

    def read_rows(rows: Range) -> F32:
        return floats(tensor).reshape(num_rows, -1)[rows[0] : rows[1]]

    if prod(tensor.shape) == 1:
        return Scales(
            part_inputs=num_columns,
            numbers=kind,
            read=lambda rows: np.full((rows[1] - rows[0], 1), floats(tensor).ravel()[0], np.float32),
        )
    if tensor.shape in ((num_rows,), (num_rows, 1)):
        return Scales(part_inputs=num_columns, numbers=kind, read=read_rows)
    height, width = block if block is not None and _are_counts(block) else shape
    if block is not None and tensor.shape == (-(-num_rows // height), -(-num_columns // width)):
        return Scales(
            part_inputs=width,
            numbers=kind,
            read=lambda rows: floats(tensor)[np.arange(*rows) // height],
        )
    if block is None and len(tensor.shape) == 2 and tensor.shape[0] == num_rows and num_columns % tensor.shape[1] == 0:
        return Scales(part_inputs=num_columns // tensor.shape[1], numbers=kind, read=read_rows)
    raise ModelLoadError(
        f"{finder.where}: {name} has the shape {list(tensor.shape)}, which are not scales of {list(shape)}"
    )


def _are_counts(block: Sequence[Any]) -> bool:
    return len(block) == 2 and all(type(size) is int and size > 0 for size in block)


def unpack_words(words: I32, bits: int, order: Sequence[int] | None = None) -> U8:
    """Codes [A, W * 32 / bits] of words [A, W], the lowest bits first; `order`: the place of each code of a word."""
    per_word = 32 // bits
    codes = np.empty((*words.shape, per_word), np.uint8)
    unsigned = words.view(np.uint32)
    for i, place in enumerate(order or range(per_word)):
        codes[..., place] = (unsigned >> np.uint32(bits * i)) & np.uint32((1 << bits) - 1)
    return codes.reshape(words.shape[0], -1)


def unpack_span(words: I32, bits: int, span: Range, order: Sequence[int] | None = None) -> U8:
    """As `unpack_words`, but only the codes of each row within `span`; only words that contain them are read."""
    per_word = 32 // bits
    first = span[0] // per_word
    codes = unpack_words(words[:, first : -(-span[1] // per_word)], bits, order)
    return codes[:, span[0] - first * per_word : span[1] - first * per_word]
