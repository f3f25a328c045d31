"""All quantizations that can be read from a Hugging Face directory, by the `quant_method` of its settings."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from shoal.errors import ModelLoadError
from shoal.model.formats.huggingface.quantized.bitsandbytes import find_bitsandbytes
from shoal.model.formats.huggingface.quantized.coded_matrix import CodedMatrix
from shoal.model.formats.huggingface.quantized.compressed_tensors import find_compressed_tensors
from shoal.model.formats.huggingface.quantized.fp8 import find_fp8
from shoal.model.formats.huggingface.quantized.gptq import find_awq, find_gptq
from shoal.model.formats.huggingface.quantized.tensors import TensorFinder
from shoal.model.formats.huggingface.tensor_files import Tensor

METHODS: Mapping[str, Callable[[TensorFinder, Mapping[str, Any]], list[CodedMatrix]]] = {
    "fp8": find_fp8,
    "fbgemm_fp8": find_fp8,
    "compressed-tensors": find_compressed_tensors,
    "gptq": find_gptq,
    "awq": find_awq,
    "bitsandbytes": find_bitsandbytes,
}
ACTIVATION_SCALES = re.compile(
    r".*\.(input|output|activation|k|v|q|kv|attn|prob)_(scale|zero_point|global_scale|scale_ub)"
)
"""Scales of activations and KV cache, which other programs quantize while a model runs; here they are held as in other
models."""


def find_coded(where: Path, settings: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Mapping[str, CodedMatrix]:
    """The quantized matrices of a directory by the names that they would have unquantized.

    Args:
        where: the directory.
        settings: the `quantization_config`, whose method is one of METHODS.
        tensors: of all files, by name.

    Raises:
        ModelLoadError: a setting or a tensor is not supported.
    """
    find = METHODS[settings["quant_method"]]
    return {matrix.name: matrix for matrix in find(TensorFinder(where=where, tensors=tensors), settings)}


def check_method(path: Path, method: object, known: tuple[str, ...]) -> None:
    """Raises ModelLoadError for a method that is neither in METHODS nor one of `known`."""
    if method not in METHODS and method not in known:
        raise ModelLoadError(
            f"{path}: quantization {method!r:.100} is not supported; there are {', '.join(METHODS)} (and mxfp4 of "
            "gpt-oss); give the unquantized model or a GGUF file"
        )
