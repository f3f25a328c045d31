"""The vision part of Qwen3-VL: every layer attends over the whole picture, and what a few of them give goes to the
language model's first layers beside the last one's.

Sources: Qwen3-VL, arXiv 2511.21631; DeepStack, arXiv 2406.04334; transformers, models/qwen3_vl.

Shapes: P patches of a picture, M vectors, D hidden size, F values of a patch, H heads of C columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isqrt
from pathlib import Path

import numpy as np

from shoal.arrays import F32, Array
from shoal.errors import ModelLoadError
from shoal.model.vision.cut_picture import VECTORS, CutPicture
from shoal.model.vision.qwen_patches import PatchCutter, angles
from shoal.model.vision.settings import VisionSettings
from shoal.model.vision.tower_graph import TowerGraph

_EPSILON = 1e-6
"""Of all norms. Source: transformers, Qwen3VLVisionBlock"""
_CORNERS = 4
"""Learned positions around a patch's place, between which its own lies."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Qwen3Vision:
    """Sizes. Implements `PictureCutter`."""

    cutter: PatchCutter
    num_layers: int
    hidden_size: int
    num_heads: int
    columns: int
    """of the MLP"""
    num_outputs: int
    """columns of a vector of the language model's"""
    positions_side: int
    """learned positions of a side"""
    deep_layers: tuple[int, ...]
    """whose output goes to the language model's first layers, in order"""
    theta: float

    @classmethod
    def read(cls, vision: VisionSettings, preprocessor: VisionSettings) -> Qwen3Vision:
        """As the files say. Raises ModelLoadError."""
        hidden, heads = vision.size("hidden_size", 1152), vision.size("num_heads", 16)
        positions, deep = vision.size("num_position_embeddings", 2304), vision.places("deepstack_visual_indexes", _DEEP)
        if hidden % (4 * heads) or vision.word("hidden_act", "gelu_pytorch_tanh") != "gelu_pytorch_tanh":
            raise ModelLoadError(f"{vision.path}: a vision part of {heads} heads of {hidden} columns is not supported")
        if isqrt(positions) ** 2 != positions or list(deep) != sorted(set(deep)):
            raise ModelLoadError(f"{vision.path}: the vision part's positions or its deep layers are not supported")
        return cls(
            cutter=PatchCutter.read(preprocessor, vision),
            num_layers=vision.size("depth", 27),
            hidden_size=hidden,
            num_heads=heads,
            columns=vision.size("intermediate_size", 4304),
            num_outputs=vision.size("out_hidden_size", 3584),
            positions_side=isqrt(positions),
            deep_layers=deep,
            theta=vision.part("rope_parameters").number("rope_theta", 10000.0),
        )

    @property
    def head_dim(self) -> int:
        """C"""
        return self.hidden_size // self.num_heads

    def cut(self, pixels: Array) -> CutPicture:
        """See `PictureCutter`."""
        patches = self.cutter.cut(pixels)
        places_P2 = self.cutter.places(patches.height, patches.width)
        cos, sin = angles(places_P2, self.head_dim, self.theta)
        corners, weights = self._corners(places_P2, patches.height, patches.width)
        inputs = {"patches": patches.values, "cos": cos, "sin": sin, "corners": corners, "weights": weights}
        return CutPicture(inputs=inputs, height=patches.height, width=patches.width)

    def _corners(self, places_P2: Array, height: int, width: int) -> tuple[Array, F32]:
        """The learned positions around each patch and their shares, [P, 4] and [P, 4, 1]: the table is stretched so
        that its corners are the picture's."""
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

    def build(self, folder: Path) -> bytes:
        """The ONNX model. Raises ModelLoadError."""
        return _Tower(self, folder).build()


_DEEP = (8, 16, 24)


class _Tower:
    def __init__(self, model: Qwen3Vision, folder: Path) -> None:
        self._model = model
        self._graph = TowerGraph(folder, "visual.patch_embed.proj.weight")

    def build(self) -> bytes:
        graph, model = self._graph, self._model
        half = model.head_dim // 2
        patches = graph.declare_input("patches", np.float32, ["patches", model.cutter.num_values])
        turns = [graph.declare_input(name, np.float32, ["patches", half]) for name in ("cos", "sin")]
        corners = graph.declare_input("corners", np.int64, ["patches", _CORNERS])
        weights = graph.declare_input("weights", np.float32, ["patches", _CORNERS, 1])
        x_PD = graph.node("Add", [self._embed(patches), self._positions(corners, weights)])
        cos, sin = (graph.node("Unsqueeze", [one, graph.ints(1)]) for one in turns)
        deep: list[str] = []
        for layer in range(model.num_layers):
            x_PD = self._layer(x_PD, f"visual.blocks.{layer}.", (cos, sin))
            if layer in model.deep_layers:
                place = model.deep_layers.index(layer)
                deep.append(self._merge(x_PD, f"visual.deepstack_merger_list.{place}.", norms_squares=True))
        vectors = [self._merge(x_PD, "visual.merger.", norms_squares=False), *deep]
        graph.declare_output(
            VECTORS, graph.node("Concat", vectors, axis=-1), ["vectors", len(vectors) * model.num_outputs]
        )
        return graph.serialize()

    def _embed(self, patches: str) -> str:
        graph, model, name = self._graph, self._model, "visual.patch_embed.proj"
        side = model.cutter.patch
        weight = graph.tensor(f"{name}.weight", model.hidden_size, 3, model.cutter.frames, side, side)
        matrix_FD = weight.reshape(model.hidden_size, -1).T
        product = graph.node("MatMul", [patches, graph.matrix(f"{name}.weight", matrix_FD)])
        return graph.add(product, graph.tensor(f"{name}.bias", model.hidden_size))

    def _positions(self, corners: str, weights: str) -> str:
        graph, model = self._graph, self._model
        table = graph.constant(graph.tensor("visual.pos_embed.weight", model.positions_side**2, model.hidden_size))
        around = graph.node("Mul", [graph.node("Gather", [table, corners]), weights])
        return graph.node("ReduceSum", [around, graph.ints(1)], keepdims=0)

    def _layer(self, x_PD: str, name: str, turns: tuple[str, str]) -> str:
        graph, model = self._graph, self._model
        hidden, shape = model.hidden_size, (1, -1, model.hidden_size)
        normed = graph.layer_norm(x_PD, f"{name}norm1", hidden, _EPSILON)
        query, key, value = graph.split(graph.dense(normed, f"{name}attn.qkv", hidden, 3 * hidden), [hidden] * 3)
        query, key = (graph.turn(part, turns, model.num_heads, model.head_dim) for part in (query, key))
        query, key, value = (graph.reshape(part, shape) for part in (query, key, value))
        mixed = graph.attention(query, key, value, model.num_heads, model.head_dim**-0.5)
        attended = graph.dense(graph.reshape(mixed, (-1, hidden)), f"{name}attn.proj", hidden, hidden)
        x_PD = graph.node("Add", [x_PD, attended])
        normed = graph.layer_norm(x_PD, f"{name}norm2", hidden, _EPSILON)
        inner = graph.activation("gelu_tanh", graph.dense(normed, f"{name}mlp.linear_fc1", hidden, model.columns))
        return graph.node("Add", [x_PD, graph.dense(inner, f"{name}mlp.linear_fc2", model.columns, hidden)])

    def _merge(self, x_PD: str, name: str, *, norms_squares: bool) -> str:
        """One vector of each square. `norms_squares`: all of a square has one norm, in the place of each patch."""
        graph, model = self._graph, self._model
        width = model.hidden_size * model.cutter.merge**2
        if norms_squares:
            x_PD = graph.layer_norm(graph.reshape(x_PD, (-1, width)), f"{name}norm", width, _EPSILON)
        else:
            normed = graph.layer_norm(x_PD, f"{name}norm", model.hidden_size, _EPSILON)
            x_PD = graph.reshape(normed, (-1, width))
        inner = graph.activation("gelu", graph.dense(x_PD, f"{name}linear_fc1", width, width))
        return graph.dense(inner, f"{name}linear_fc2", width, model.num_outputs)
