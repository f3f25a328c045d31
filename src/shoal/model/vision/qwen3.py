"""The vision part of Qwen3-VL: every layer attends over the whole picture. Besides the last layer's output, that of a
few others goes to the language model's first layers.

Sources: Qwen3-VL, arXiv 2511.21631; DeepStack, arXiv 2406.04334; transformers, models/qwen3_vl.

Shapes: P patches of a picture, M vectors, D hidden size, F values of a patch, H heads of C columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isqrt

import numpy as np

from shoal.arrays import F32, Array
from shoal.errors import ModelLoadError
from shoal.model.vision.cut_picture import VECTORS, CutPicture
from shoal.model.vision.qwen_patches import angles
from shoal.model.vision.qwen_tower import EPSILON, QwenSizes, QwenTower, read_sizes
from shoal.model.vision.settings import VisionSettings
from shoal.model.vision.tower_graph import TowerTensors

_CORNERS = 4
"""Learned positions around a patch, between which its own is interpolated."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Qwen3Vision(QwenSizes):
    """Settings of the vision part. Implements `PictureCutter`."""

    positions_side: int
    """Learned positions along each side of a picture."""
    deep_layers: tuple[int, ...]
    """Layers whose output goes to the language model's first layers, in order."""

    @classmethod
    def read(cls, vision: VisionSettings, preprocessor: VisionSettings) -> Qwen3Vision:
        """Read the settings from the model's files. Raises ModelLoadError."""
        positions, deep = vision.size("num_position_embeddings", 2304), vision.places("deepstack_visual_indexes", _DEEP)
        if isqrt(positions) ** 2 != positions or list(deep) != sorted(set(deep)):
            raise ModelLoadError(f"{vision.path}: the vision part's positions or its deep layers are not supported")
        sizes = read_sizes(
            vision, preprocessor, layers=27, hidden_size=1152, columns=4304, activation="gelu_pytorch_tanh"
        )
        return cls(**sizes, positions_side=isqrt(positions), deep_layers=deep)

    def cut(self, pixels: Array) -> CutPicture:
        """See `PictureCutter`."""
        patches = self.cutter.cut(pixels)
        places_P2 = self.cutter.places(patches.height, patches.width)
        cos, sin = angles(places_P2, self.head_dim, self.theta)
        corners, weights = self._corners(places_P2, patches.height, patches.width)
        inputs = {"patches": patches.values, "cos": cos, "sin": sin, "corners": corners, "weights": weights}
        return CutPicture(inputs=inputs, height=patches.height, width=patches.width)

    def _corners(self, places_P2: Array, height: int, width: int) -> tuple[Array, F32]:
        """The learned positions around each patch and their weights, [P, 4] and [P, 4, 1]. The table is scaled so that
        its corners are those of the picture."""
        sizes = np.array([height, width], np.float32) * np.float32(self.cutter.merge) - np.float32(1.0)
        spots_P2 = places_P2.astype(np.float32) * np.float32(self.positions_side - 1) / sizes
        floor_P2 = np.floor(spots_P2)
        share_P2 = spots_P2 - floor_P2
        low_P2 = floor_P2.astype(np.int64)
        high_P2 = np.minimum(low_P2 + 1, self.positions_side - 1)
        corners, weights = [], []
        for row, row_share in ((low_P2[:, 0], 1 - share_P2[:, 0]), (high_P2[:, 0], share_P2[:, 0])):
            for column, column_share in ((low_P2[:, 1], 1 - share_P2[:, 1]), (high_P2[:, 1], share_P2[:, 1])):
                corners.append(row * self.positions_side + column)
                weights.append(row_share * column_share)
        return np.stack(corners, axis=1), np.stack(weights, axis=1)[:, :, None]

    def build(self, tensors: TowerTensors) -> bytes:
        """Build the ONNX model. Raises ModelLoadError."""
        return _Tower(self, tensors).build()


_DEEP = (8, 16, 24)


class _Tower:
    def __init__(self, model: Qwen3Vision, tensors: TowerTensors) -> None:
        self._model = model
        self._tower = QwenTower(model, tensors, "patches")
        self._graph = self._tower.graph

    def build(self) -> bytes:
        graph, model = self._graph, self._model
        x_PD = graph.add(self._tower.begin(), graph.tensor("visual.patch_embed.proj.bias", model.hidden_size))
        corners = graph.declare_input("corners", np.int64, ["patches", _CORNERS])
        weights = graph.declare_input("weights", np.float32, ["patches", _CORNERS, 1])
        x_PD = graph.node("Add", [x_PD, self._positions(corners, weights)])
        deep: list[str] = []
        for layer in range(model.num_layers):
            x_PD = self._layer(x_PD, f"visual.blocks.{layer}.")
            if layer in model.deep_layers:
                place = model.deep_layers.index(layer)
                deep.append(self._merge(x_PD, f"visual.deepstack_merger_list.{place}.", norms_squares=True))
        vectors = [self._merge(x_PD, "visual.merger.", norms_squares=False), *deep]
        graph.declare_output(
            VECTORS, graph.node("Concat", vectors, axis=-1), ["vectors", len(vectors) * model.num_outputs]
        )
        return graph.serialize()

    def _positions(self, corners: str, weights: str) -> str:
        graph, model = self._graph, self._model
        table = graph.constant(graph.tensor("visual.pos_embed.weight", model.positions_side**2, model.hidden_size))
        around = graph.node("Mul", [graph.node("Gather", [table, corners]), weights])
        return graph.node("ReduceSum", [around, graph.ints(1)], keepdims=0)

    def _layer(self, x_PD: str, name: str) -> str:
        graph, model = self._graph, self._model
        hidden, shape = model.hidden_size, (1, -1, model.hidden_size)
        normed = graph.layer_norm(x_PD, f"{name}norm1", hidden, EPSILON)
        query, key, value = (graph.reshape(part, shape) for part in self._tower.heads(normed, name))
        mixed = graph.attention(query, key, value, model.num_heads, model.head_dim**-0.5)
        attended = graph.dense(graph.reshape(mixed, (-1, hidden)), f"{name}attn.proj", hidden, hidden)
        x_PD = graph.node("Add", [x_PD, attended])
        normed = graph.layer_norm(x_PD, f"{name}norm2", hidden, EPSILON)
        inner = graph.activation("gelu_tanh", graph.dense(normed, f"{name}mlp.linear_fc1", hidden, model.columns))
        return graph.node("Add", [x_PD, graph.dense(inner, f"{name}mlp.linear_fc2", model.columns, hidden)])

    def _merge(self, x_PD: str, name: str, *, norms_squares: bool) -> str:
        """The vector of each square. `norms_squares`: each square is normed as a whole, rather than each patch."""
        graph, tower, hidden = self._graph, self._tower, self._model.hidden_size
        if norms_squares:
            width = hidden * self._model.cutter.merge**2
            x = graph.layer_norm(tower.squares(x_PD), f"{name}norm", width, EPSILON)
        else:
            x = tower.squares(graph.layer_norm(x_PD, f"{name}norm", hidden, EPSILON))
        return tower.project(x, f"{name}linear_fc1", f"{name}linear_fc2")
