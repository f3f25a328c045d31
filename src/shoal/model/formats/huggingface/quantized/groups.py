"""Columns that are not in the order of their groups: in GPTQ with activation order, each column names its group.

Such a matrix keeps its codes, and each input names its scale; the native kernels multiply it as floats.
Source: GPTQ, arXiv 2210.17323; github.com/IST-DASLab/gptq (`act_order`).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from shoal.arrays import I32
from shoal.errors import ModelLoadError
from shoal.model.formats.huggingface.quantized.coded_matrix import CodedMatrix
from shoal.model.formats.huggingface.quantized.tensors import TensorFinder


def groups_in(finder: TensorFinder, name: str, num_columns: int, num_groups: int, group: int) -> I32 | None:
    """The group of each column; None if the file has no such tensor, or the columns are in order.

    Raises:
        ModelLoadError: a group does not exist, or the number of columns is wrong.
    """
    if name not in finder.tensors:
        return None
    tensor = finder.find(name, "I32")
    finder.require_shape(name, tensor, num_columns)
    groups_K = tensor.items("<i4").astype(np.int32)
    if np.array_equal(groups_K, np.arange(num_columns) // group):
        return None
    if groups_K.min() < 0 or groups_K.max() >= num_groups:
        raise ModelLoadError(f"{finder.where}: {name} names a group that is not one of the {num_groups}")
    return groups_K


def with_groups(matrix: CodedMatrix, groups_K: I32 | None, num_groups: int) -> CodedMatrix:
    """The matrix with its columns in these groups."""
    if groups_K is None:
        return matrix
    kind = replace(matrix.kind, is_grouped=True, part_inputs=num_groups)
    return replace(matrix, kind=kind, groups_K=groups_K)
