"""The vision part of Gemma 3: SigLIP over a picture of fixed size, pooled to fewer vectors.

Sources: Gemma 3, arXiv 2503.19786, section 2.1; SigLIP, arXiv 2303.15343; transformers, models/gemma3 and siglip.

Shapes: P patches of a picture, M vectors, D hidden size, F values of a patch.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isqrt

import numpy as np

from shoal.arrays import Array
from shoal.errors import ModelLoadError
from shoal.model.vision.cut_picture import VECTORS, CutPicture
from shoal.model.vision.pixels import normalize, resize
from shoal.model.vision.settings import VisionSettings
from shoal.model.vision.tower_graph import TowerGraph, TowerTensors

_HALF = (0.5, 0.5, 0.5)
"""Mean and deviation of colors. Source: transformers, IMAGENET_STANDARD_MEAN and _STD"""
_PATCHES = "embeddings.patch_embedding.weight"
_NORM, _PROJECTION = "mm_soft_emb_norm.weight", "mm_input_projection_weight"


@dataclass(frozen=True, slots=True, kw_only=True)
class Gemma3Vision:
    """Settings of the vision part. Implements `PictureCutter`."""

    side: int
    """Width and height of a picture in pixels."""
    patch: int
    """Width and height of a patch in pixels."""
    vectors_side: int
    """Vectors along each side of a picture."""
    num_layers: int
    hidden_size: int
    num_heads: int
    columns: int
    """Columns of the MLP."""
    num_outputs: int
    """Columns of a vector, as in the language model."""
    epsilon: float
    """Epsilon of all norms."""
    factor: float
    """Factor on pixels."""
    mean: tuple[float, ...]
    deviation: tuple[float, ...]

    @classmethod
    def read(cls, vision: VisionSettings, preprocessor: VisionSettings) -> Gemma3Vision:
        """Read the settings from the model's files. Raises ModelLoadError."""
        num_vectors = vision.size("mm_tokens_per_image", 256)
        model = cls(
            side=vision.size("image_size", 896),
            patch=vision.size("patch_size", 14),
            vectors_side=isqrt(num_vectors),
            num_layers=vision.size("num_hidden_layers", 27),
            hidden_size=vision.size("hidden_size", 1152),
            num_heads=vision.size("num_attention_heads", 16),
            columns=vision.size("intermediate_size", 4304),
            num_outputs=vision.size("out_hidden_size", 2304),
            epsilon=vision.number("layer_norm_eps", 1e-6),
            factor=preprocessor.number("rescale_factor", 1 / 255),
            mean=preprocessor.numbers("image_mean", _HALF, 3),
            deviation=preprocessor.numbers("image_std", _HALF, 3),
        )
        patches_side = model.side // model.patch
        if (
            model.side % model.patch
            or patches_side % model.vectors_side
            or model.vectors_side**2 != num_vectors
            or model.hidden_size % model.num_heads
        ):
            raise ModelLoadError(
                f"{vision.path}: {num_vectors} vectors of {patches_side} x {patches_side} patches are not supported"
            )
        if vision.word("hidden_act", "gelu_pytorch_tanh") != "gelu_pytorch_tanh" or min(model.deviation) <= 0:
            raise ModelLoadError(f"{vision.path}: the vision part's activation or its colors are not supported")
        if preprocessor.flag("do_pan_and_scan", default=False):
            raise ModelLoadError(f"{preprocessor.path}: 'do_pan_and_scan' is not supported")
        return model

    @property
    def num_values(self) -> int:
        """F"""
        return 3 * self.patch**2

    def cut(self, pixels: Array) -> CutPicture:
        """See `PictureCutter`."""
        values = normalize(resize(pixels, self.side, self.side, "bilinear"), self.factor, self.mean, self.deviation)
        count = self.side // self.patch
        parts = values.reshape(count, self.patch, count, self.patch, 3).transpose(0, 2, 4, 1, 3)
        patches_PF = np.ascontiguousarray(parts.reshape(count * count, self.num_values))
        return CutPicture(inputs={"patches": patches_PF}, height=self.vectors_side, width=self.vectors_side)

    def build(self, tensors: TowerTensors) -> bytes:
        """Build the ONNX model. Raises ModelLoadError."""
        return _Tower(self, tensors).build()


class _Tower:
    def __init__(self, model: Gemma3Vision, tensors: TowerTensors) -> None:
        self._model, self._graph = model, TowerGraph(tensors)

    def build(self) -> bytes:
        graph, model = self._graph, self._model
        count, side = (model.side // model.patch) ** 2, model.patch
        patches = graph.declare_input("patches", np.float32, [count, model.num_values])
        weight = graph.tensor(_PATCHES, model.hidden_size, 3, side, side).reshape(model.hidden_size, -1)
        x_PD = graph.node("MatMul", [patches, graph.matrix(_PATCHES, weight.T)])
        positions_PD = graph.tensor("embeddings.position_embedding.weight", count, model.hidden_size)
        bias = graph.tensor("embeddings.patch_embedding.bias", model.hidden_size)
        x_PD = graph.add(x_PD, positions_PD + bias)
        for layer in range(model.num_layers):
            x_PD = self._layer(x_PD, f"encoder.layers.{layer}.")
        x_PD = graph.layer_norm(x_PD, "post_layernorm", model.hidden_size, model.epsilon)
        graph.declare_output(VECTORS, self._project(x_PD), [model.vectors_side**2, model.num_outputs])
        return graph.serialize()

    def _layer(self, x_PD: str, name: str) -> str:
        graph, model = self._graph, self._model
        hidden = model.hidden_size
        normed = graph.layer_norm(x_PD, f"{name}layer_norm1", hidden, model.epsilon)
        rows = [
            graph.reshape(graph.dense(normed, f"{name}self_attn.{part}_proj", hidden, hidden), (1, -1, hidden))
            for part in "qkv"
        ]
        scale = (hidden // model.num_heads) ** -0.5
        mixed = graph.reshape(graph.attention(rows[0], rows[1], rows[2], model.num_heads, scale), (-1, hidden))
        x_PD = graph.node("Add", [x_PD, graph.dense(mixed, f"{name}self_attn.out_proj", hidden, hidden)])
        normed = graph.layer_norm(x_PD, f"{name}layer_norm2", hidden, model.epsilon)
        inner = graph.activation("gelu_tanh", graph.dense(normed, f"{name}mlp.fc1", hidden, model.columns))
        return graph.node("Add", [x_PD, graph.dense(inner, f"{name}mlp.fc2", model.columns, hidden)])

    def _project(self, x_PD: str) -> str:
        """The mean of each square of patches, projected to the width of the language model's rows."""
        graph, model = self._graph, self._model
        pooled = model.side // model.patch // model.vectors_side
        squares = graph.reshape(x_PD, (model.vectors_side, pooled, model.vectors_side, pooled, model.hidden_size))
        means = graph.node("ReduceMean", [squares, graph.ints(1, 3)], keepdims=0)
        rows = graph.reshape(means, (-1, model.hidden_size))
        normed = graph.rms_norm(rows, graph.tensor(_NORM, model.hidden_size) + np.float32(1.0), model.epsilon)
        weight = graph.tensor(_PROJECTION, model.hidden_size, model.num_outputs)
        return graph.node("MatMul", [normed, graph.constant(weight)])
