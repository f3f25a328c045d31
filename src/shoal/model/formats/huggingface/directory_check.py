"""Checks that a Hugging Face directory has the tensors of its model, and no others."""

from __future__ import annotations

import re
from math import prod

import numpy as np

from shoal.errors import ModelLoadError
from shoal.model.formats.huggingface.mxfp4 import blocks_of, check_mxfp4, scales_of
from shoal.model.formats.huggingface.quantized.table import ACTIVATION_SCALES
from shoal.model.formats.huggingface.tensor_map import ITEM_BYTES, TensorMap
from shoal.model.formats.tensor_check import check_tensors

_LAYER = re.compile(r"model\.layers\.(\d+)\.")
_KEYS = re.compile(r".*layers\.(\d+)\.self_attn\.(k_proj|v_proj|k_norm|v_norm)\.weight")
"""Tensors that are not read in a layer that attends over another layer's keys."""


def check_directory(found: TensorMap) -> None:
    """Refuse a directory that lacks tensors of its model, or has others.

    Only tensors from which the model is computed need a type and size that can be read.

    Raises:
        ModelLoadError: it names the first tensor that is wrong.
    """
    used = check_tensors(
        found.directory,
        found.config,
        shape_of={name: found.shape(name) for name in found.names()},
        locate=found.locate,
        is_needless=lambda tensor: _is_needless(found, tensor),
    )
    for name in used:
        if name in found.coded:
            continue
        if found.is_mxfp4(name):
            check_mxfp4(found.directory, name, found.tensors[name], found.tensors.get(scales_of(name)))
        else:
            _check_floats(found, name)


def _check_floats(found: TensorMap, name: str) -> None:
    tensor = found.tensors[name]
    if tensor.dtype not in ITEM_BYTES:
        raise ModelLoadError(f"{found.directory}: {name} has type {tensor.dtype}; supported: {', '.join(ITEM_BYTES)}")
    needed = prod(tensor.shape) * ITEM_BYTES[tensor.dtype]
    if tensor.num_bytes != needed:
        raise ModelLoadError(
            f"{found.directory}: {name} has {tensor.num_bytes} bytes, its shape {list(tensor.shape)} needs {needed}"
        )


def _is_needless(found: TensorMap, tensor: str) -> bool:
    """Whether the model is computed without a tensor. Scales are checked and read with their blocks."""
    has_blocks = found.family.stacks_experts and blocks_of(tensor) in found.tensors
    later = _LAYER.match(tensor) if found.family.has_draft_layers else None
    is_draft = later is not None and int(later[1]) >= found.config.num_layers
    keys = _KEYS.fullmatch(tensor)
    is_unread = keys is not None and found.config.kv_source(int(keys[1])) != int(keys[1])
    is_needless = has_blocks or is_draft or is_unread or found.family.needless.fullmatch(tensor) is not None
    return is_needless or (bool(found.coded) and _is_of_coded(found, tensor))


def _is_of_coded(found: TensorMap, tensor: str) -> bool:
    """Whether a tensor belongs to a quantized matrix: scales of activations, and the zero biases that GPTQ's tools
    write for layers without biases."""
    if ACTIVATION_SCALES.fullmatch(tensor):
        return True
    stem, _, leaf = tensor.rpartition(".")
    if leaf != "bias" or f"{stem}.weight" not in found.coded or found.tensors[tensor].dtype not in ITEM_BYTES:
        return False
    return not np.any(found.floats_of(tensor))
