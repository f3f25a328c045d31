"""A small vocabulary for building ONNX graphs: linear layers at any precision, norms, activations.

Shapes: T tokens, D hidden, K input features, N output features, G = K / BLOCK.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper

from shoal.errors import ModelLoadError
from shoal.model.decoder.onnx.segment_sizes import int8_packing_bytes
from shoal.model.decoder_config import Activation
from shoal.model.formats.quantization import dequantize
from shoal.model.weights import BLOCK, BlockWeight, DenseWeight, Weight

_OPSET = 21
_IR_VERSION = 10
_PROTOBUF_LIMIT_BYTES = 2**31 - 1
"""Source: protobuf's documented limit on one serialized message."""
_EXACT_COMPUTE, _INT8_COMPUTE = 0, 4
"""`accuracy_level` of MatMulNBits: exact activations, or 8-bit ones in blocks. Source: ONNX Runtime contrib
operators."""
_MOST_HALF = float(np.finfo(np.float16).max)


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphForm:
    """How a decoder's graphs are written: the choices that depend on the provider and on the wanted precision."""

    exact_activations: bool = False
    """Whether quantized matrices are always multiplied by exact activations, never by 8-bit ones."""
    floats: type[np.float32 | np.float16] = np.float32
    """Type of activations, vectors and floating-point matrices."""
    narrow_bits: tuple[int, ...] = (4,)
    """Widths of blocks that are multiplied by exact activations as they are; others become floats first. All providers
    that have MatMulNBits take 4 bits; ONNX Runtime's processor provider has no fast kernel for 8 (verifying SmolLM2 did
    not end within 200 s)."""


USUAL_FORM = GraphForm()


class GraphBuilder:
    """Puts nodes and weights of one segment into a model, then serializes it. Methods return the name of their result.

    The model has the only copy of the weights: protobuf would copy each one that is passed to it complete.
    """

    def __init__(self, name: str, form: GraphForm = USUAL_FORM) -> None:
        """An empty graph. `name`: for error messages."""
        self._name, self._form = name, form
        self._compute_level = _EXACT_COMPUTE if form.exact_activations else _INT8_COMPUTE
        self._model = helper.make_model(
            helper.make_graph([], name, [], []),
            opset_imports=[helper.make_opsetid("", _OPSET), helper.make_opsetid("com.microsoft", 1)],
            ir_version=_IR_VERSION,
        )
        self._graph = self._model.graph
        self._weight_bytes = self._packing_bytes = 0
        self._block_sums: dict[str, str] = {}

    @property
    def weight_bytes(self) -> int:
        """Bytes that a session holds for all weights so far."""
        return self._weight_bytes + self._packing_bytes

    @property
    def num_nodes(self) -> int:
        """Number of nodes so far."""
        return len(self._graph.node)

    def node(
        self, op: str, inputs: Sequence[str], *, domain: str = "", outputs: Sequence[str] = (), **attributes: Any
    ) -> str:
        """Append a node, and name its single output unless `outputs` are given. Returns the first output."""
        names = list(outputs) or [f"{op}_{len(self._graph.node)}"]
        self._graph.node.append(helper.make_node(op, list(inputs), names, domain=domain, **attributes))
        return names[0]

    def constant(self, values: npt.NDArray[np.generic]) -> str:
        """Add a weight or shape."""
        name = f"w{len(self._graph.initializer)}"
        values = self._as_floats(values)
        self._weight_bytes += values.nbytes
        if self._weight_bytes > _PROTOBUF_LIMIT_BYTES:
            raise ModelLoadError(f"{self._name} holds more than 2 GB of weights; use --precision int8 or int4")
        data_type = helper.np_dtype_to_tensor_dtype(values.dtype)
        self._graph.initializer.add(name=name, data_type=data_type, dims=values.shape, raw_data=values.tobytes())
        return name

    def linear(self, x: str, weights: Sequence[Weight | None], bias: npt.NDArray[np.float32] | None = None) -> str:
        """x [T, K] times each weight transposed, side by side: [T, sum of N]."""
        parts = [self._matmul(x, weight) for weight in weights if weight is not None]
        y = parts[0] if len(parts) == 1 else self.node("Concat", parts, axis=-1)
        return y if bias is None else self.add(y, bias)

    def add(self, x: str, vector: npt.NDArray[np.float32]) -> str:
        """x + a vector, for every row."""
        return self.node("Add", [x, self.constant(vector)])

    def rms_norm(self, x: str, weight: npt.NDArray[np.float32], epsilon: float) -> str:
        """x / rms(x) * weight over the last dim. Source: arXiv 1910.07467."""
        return self.node("SimplifiedLayerNormalization", [x, self.constant(weight)], epsilon=epsilon, axis=-1)

    def center_norm(
        self,
        x: str,
        weight: npt.NDArray[np.float32],
        epsilon: float,
        bias: npt.NDArray[np.float32] | None = None,
    ) -> str:
        """(x - mean(x)) / sqrt(variance(x) + epsilon) * weight + bias over the last dim. Source: arXiv 1607.06450."""
        more = [] if bias is None else [self.constant(bias)]
        return self.node("LayerNormalization", [x, self.constant(weight), *more], epsilon=epsilon, axis=-1)

    def add_then_norm(self, x: str, skip: str, weight: npt.NDArray[np.float32], epsilon: float) -> tuple[str, str]:
        """The residual sum x + skip and its RMS norm, in one operator. Returns (sum, norm)."""
        total, norm = f"sum_{len(self._graph.node)}", f"norm_{len(self._graph.node)}"
        self.node(
            "SkipSimplifiedLayerNormalization",
            [x, skip, self.constant(weight)],
            domain="com.microsoft",
            outputs=[norm, "", "", total],
            epsilon=epsilon,
        )
        return total, norm

    def split(self, x: str, widths: Sequence[int]) -> list[str]:
        """Cut the last dim into pieces of these widths."""
        names = [f"split_{len(self._graph.node)}_{i}" for i in range(len(widths))]
        self.node("Split", [x, self.constant(np.array(widths, np.int64))], outputs=names, axis=-1)
        return names

    def activation(self, kind: Activation, x: str) -> str:
        """silu, gelu, or gelu approximated by a hyperbolic tangent."""
        match kind:
            case "silu":
                return self._swish(x, 1.0)
            case "gelu":
                return self.node("Gelu", [x], approximate="none")
            case "gelu_tanh":
                return self.node("Gelu", [x], approximate="tanh")
            case "relu2":
                positive = self.node("Relu", [x])
                return self.node("Mul", [positive, positive])
            case "clamped_swiglu":
                raise ValueError("clamped_swiglu is no function of the gate alone")

    def gated(self, kind: Activation, gate: str, up: str) -> str:
        """activation(gate) * up, or gpt-oss's form of it. Source: arXiv 2508.10925, section 2."""
        if kind != "clamped_swiglu":
            return self.node("Mul", [self.activation(kind, gate), up])
        limit, negative = (self.constant(np.array(value, np.float32)) for value in (7.0, -7.0))
        gate, up = self.node("Min", [gate, limit]), self.node("Clip", [up, negative, limit])
        swish = self._swish(gate, 1.702)
        return self.node("Mul", [swish, self.add(up, np.ones(1, np.float32))])

    def _swish(self, x: str, alpha: float) -> str:
        """x sigmoid(alpha x). OpenVINO's form of the fused operator takes only fp32."""
        if self._form.floats is np.float32:
            return self.node("QuickGelu", [x], domain="com.microsoft", alpha=alpha)
        return self.node("Mul", [x, self.node("Sigmoid", [x if alpha == 1.0 else self.scale(x, alpha)])])

    def scale(self, x: str, factor: float) -> str:
        """x times a number."""
        return self.node("Mul", [x, self.constant(np.array(factor, np.float32))])

    def softcap(self, x: str, cap: float) -> str:
        """cap * tanh(x / cap)."""
        factor = self.constant(np.array(cap, np.float32))
        return self.node("Mul", [self.node("Tanh", [self.node("Div", [x, factor])]), factor])

    def input(self, name: str, width: int) -> str:
        """Declare an input of floats [T, width]."""
        self._graph.input.append(self._rows_of(name, width))
        return name

    def declare_input(self, name: str, dtype: npt.DTypeLike, dims: Sequence[int | str]) -> str:
        """Declare an input of any shape; dims of unknown size have names, and fp32 stands for the form's floats."""
        data_type = self._float_type if dtype is np.float32 else helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        self._graph.input.append(helper.make_tensor_value_info(name, data_type, list(dims)))
        return name

    def declare_output(self, name: str, value: str, dims: Sequence[int | str]) -> None:
        """Declare floats of any shape as an output with this name."""
        self._graph.output.append(helper.make_tensor_value_info(name, self._float_type, list(dims)))
        self.node("Identity", [value], outputs=[name])

    def output(self, name: str, value: str, width: int) -> None:
        """Declare floats [T, width] as an output with this name."""
        self._graph.output.append(self._rows_of(name, width))
        self.node("Identity", [value], outputs=[name])

    def serialize(self) -> bytes:
        """The finished model."""
        return self._model.SerializeToString()

    def clear(self) -> None:
        """Free the weights. Nothing can be serialized afterwards."""
        self._model.Clear()

    def _matmul(self, x: str, weight: Weight) -> str:
        match weight:
            case DenseWeight():
                return self.node("MatMul", [x, self.constant(weight.values_NK.T)])
            case BlockWeight() if self._form.exact_activations and weight.bits not in self._form.narrow_bits:
                return self.node("MatMul", [x, self.constant(dequantize(weight).T)])
            case BlockWeight():
                return self._block_matmul(x, weight)

    def _block_matmul(self, x: str, weight: BlockWeight) -> str:
        """Multiply by symmetric blocks with MatMulNBits; offsets are multiplied by the block sums of x, in the same
        GEMM."""
        num_out, num_in = weight.shape
        y = self.node(
            "MatMulNBits",
            [x, self.constant(weight.q_NGB), self.constant(weight.scales_NG.reshape(-1))],
            domain="com.microsoft",
            K=num_in,
            N=num_out,
            bits=weight.bits,
            block_size=BLOCK,
            accuracy_level=self._compute_level,
        )
        if self._compute_level != _EXACT_COMPUTE:
            self._packing_bytes += int8_packing_bytes(weight.scales_NG.size)
        if weight.offsets_NG is None:
            return y
        return self.node("Gemm", [self._sums(x, num_in), self.constant(weight.offsets_NG.T), y])

    def _sums(self, x: str, num_in: int) -> str:
        """Sum of every block of BLOCK values of x: [T, G]."""
        if x not in self._block_sums:
            blocks = self.node("Reshape", [x, self.constant(np.array([0, num_in // BLOCK, BLOCK], np.int64))])
            axes = self.constant(np.array([2], np.int64))
            self._block_sums[x] = self.node("ReduceSum", [blocks, axes], keepdims=0)
        return self._block_sums[x]

    @property
    def _float_type(self) -> int:
        return helper.np_dtype_to_tensor_dtype(np.dtype(self._form.floats))

    def _rows_of(self, name: str, width: int) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, self._float_type, ["T", width])

    def _as_floats(self, values: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
        """fp32 values in the form's type. Values beyond the range of 16 bits, such as very low scores, become the
        largest ones in it."""
        if values.dtype != np.float32 or self._form.floats is np.float32:
            return values
        return np.clip(values, -_MOST_HALF, _MOST_HALF).astype(np.float16)
