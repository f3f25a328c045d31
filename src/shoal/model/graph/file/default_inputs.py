"""Inputs that may be left out: initializers that the file also lists as inputs, whose values are the defaults.

Some exporters list all weights as inputs. These stay weights (decision 0020).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from shoal.arrays import Array
from shoal.model.graph.file.weight_tensors import BITS, num_bytes

MIN_IR_VERSION = 4
"""First version of the format in which weights need not be inputs as well. In earlier versions all are, and none may be
given. Source: onnx.proto, `Version`."""
MAX_DEFAULTS = 32
"""Files with more than this list their weights: hand-written defaults are a few switches, biases and thresholds."""
MAX_DEFAULT_BYTES = 1 << 20
"""Limit for all defaults together, which are added to every request that leaves them out."""


def take_defaults(model: onnx.ModelProto, folder: Path) -> dict[str, Array]:
    """Turn the initializers that a request may replace into inputs, and return their values as defaults.

    Mutates: `model`, from whose initializers they are removed.

    Args:
        model: the file.
        folder: of external data.
    """
    found = _replaceable(model)
    size = sum(map(num_bytes, found))
    if len(found) > MAX_DEFAULTS or size > MAX_DEFAULT_BYTES or not all(map(_is_readable, found)):
        return {}
    defaults = {tensor.name: _array(tensor, folder) for tensor in found}
    kept = [tensor for tensor in model.graph.initializer if tensor.name not in defaults]
    if defaults:
        del model.graph.initializer[:]
        model.graph.initializer.extend(kept)
    return defaults


def _replaceable(model: onnx.ModelProto) -> list[onnx.TensorProto]:
    if model.ir_version < MIN_IR_VERSION:
        return []
    listed = {value.name for value in model.graph.input}
    return [tensor for tensor in model.graph.initializer if tensor.name in listed]


def _is_readable(tensor: onnx.TensorProto) -> bool:
    is_text = tensor.data_type == onnx.TensorProto.STRING
    return is_text or BITS.get(onnx.TensorProto.DataType.Name(tensor.data_type), 0) >= 8


def _array(tensor: onnx.TensorProto, folder: Path) -> Array:
    array = np.asarray(numpy_helper.to_array(tensor, str(folder)))
    if tensor.data_type != onnx.TensorProto.STRING:
        return array
    texts = np.empty(array.shape, object)
    texts.reshape(-1)[:] = [text.decode() if isinstance(text, bytes) else text for text in array.reshape(-1)]
    return texts
