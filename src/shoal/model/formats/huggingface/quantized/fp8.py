"""FP8: weights in E4M3 with a scale for each block of 128 x 128 (DeepSeek, Qwen), for each row or for the matrix.

Source: DeepSeek-V3, arXiv 2412.19437, section 3.3; transformers, quantizers finegrained_fp8 and fbgemm_fp8. Activations
are held as in other models, so their scales are not read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from shoal.arrays import U8
from shoal.model.formats.huggingface.quantized.coded_matrix import CodedMatrix
from shoal.model.formats.huggingface.quantized.tensors import TensorFinder, scales_of
from shoal.model.formats.huggingface.tensor_files import Tensor
from shoal.model.weights import CodedKind, Range

E4M3 = "F8_E4M3"
DEFAULT_BLOCK = (128, 128)
"""Source: transformers, FineGrainedFP8Config"""


def find_fp8(finder: TensorFinder, settings: Mapping[str, Any]) -> list[CodedMatrix]:
    """All matrices in FP8. Raises ModelLoadError."""
    block = settings.get("weight_block_size") or DEFAULT_BLOCK
    return [e4m3_matrix(finder, name, block=block) for name in e4m3_names(finder)]


def e4m3_names(finder: TensorFinder) -> list[str]:
    """Names of matrices of 8-bit floats. Raises ModelLoadError for another kind than E4M3."""
    names = [name for name, tensor in finder.tensors.items() if name.endswith(".weight") and "F8" in tensor.dtype]
    for name in names:
        finder.find(name, E4M3)
    return names


def e4m3_matrix(finder: TensorFinder, name: str, *, block: Sequence[Any] | None) -> CodedMatrix:
    """An FP8 matrix, with the scales `X.weight_scale_inv` of its blocks or `X.weight_scale`. Raises ModelLoadError."""
    tensor = finder.find(name, E4M3)
    if len(tensor.shape) != 2:
        raise finder.refuse(name, f"has the shape {list(tensor.shape)}, no matrix's")
    shape = (tensor.shape[0], tensor.shape[1])
    scale_name = f"{name}_scale_inv" if f"{name}_scale_inv" in finder.tensors else f"{name}_scale"
    scales = scales_of(finder, scale_name, shape, block=block)
    return CodedMatrix(
        where=finder.where,
        name=name,
        tensors=frozenset((name, scale_name)),
        shape=shape,
        kind=CodedKind(codes="e4m3", scales=scales.numbers, part_inputs=scales.part_inputs),
        read_codes=lambda rows, columns: byte_codes(tensor, rows, columns),
        read_scales=scales.read,
    )


def byte_codes(tensor: Tensor, rows: Range, columns: Range) -> U8:
    """Some codes of a tensor [N, K] that has one a byte."""
    return tensor.items("u1").reshape(tensor.shape)[rows[0] : rows[1], columns[0] : columns[1]]
