"""The vision part of Qwen2.5-VL: most layers attend within windows, a few over the whole picture.

Source: Qwen2.5-VL, arXiv 2502.13923, section 2.1.1; transformers, models/qwen2_5_vl.

A window has a fixed number of slots, so that all windows are computed as one batch. Slots outside the picture hold
zeros that no patch sees.

Shapes: P patches of a picture, N slots, W windows of S = N / W slots, M vectors, D hidden size, F values of a patch, H
heads of C columns.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from shoal.arrays import Array
from shoal.model.vision.cut_picture import VECTORS, CutPicture
from shoal.model.vision.qwen_patches import angles
from shoal.model.vision.qwen_tower import EPSILON, QwenSizes, QwenTower, read_sizes
from shoal.model.vision.settings import VisionSettings
from shoal.model.vision.tower_graph import TowerTensors

_UNSEEN = np.float32(-1e9)
"""Added to the scores of empty slots, so that exp gives 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Qwen25Vision(QwenSizes):
    """Settings of the vision part. Implements `PictureCutter`."""

    window: int
    """Squares along each side of a window."""
    whole_layers: frozenset[int]
    """Layers that attend over the whole picture."""

    @classmethod
    def read(cls, vision: VisionSettings, preprocessor: VisionSettings) -> Qwen25Vision:
        """Read the settings from the model's files. Raises ModelLoadError."""
        sizes = read_sizes(vision, preprocessor, layers=32, hidden_size=3584, columns=3420, activation="silu")
        square_side = sizes["cutter"].merge * sizes["cutter"].patch
        return cls(
            **sizes,
            window=max(1, vision.size("window_size", 112) // square_side),
            whole_layers=frozenset(vision.places("fullatt_block_indexes", (7, 15, 23, 31))),
        )

    @property
    def num_slots(self) -> int:
        """S"""
        return (self.window * self.cutter.merge) ** 2

    def cut(self, pixels: Array) -> CutPicture:
        """See `PictureCutter`."""
        patches = self.cutter.cut(pixels)
        unit = self.cutter.merge**2
        slots_M = self._square_slots(patches.height, patches.width)
        slots_P = (slots_M[:, None] * unit + np.arange(unit)).reshape(-1)
        num_windows = int(slots_P.max()) // self.num_slots + 1
        num_slots = num_windows * self.num_slots

        def spread(values: Array) -> Array:
            spread_N = np.zeros((num_slots, values.shape[1]), np.float32)
            spread_N[slots_P] = values
            return spread_N

        cos, sin = angles(self.cutter.places(patches.height, patches.width), self.head_dim, self.theta)
        unseen_N = np.full(num_slots, _UNSEEN, np.float32)
        unseen_N[slots_P] = 0.0
        back_N = np.zeros(num_slots, np.int64)
        back_N[slots_P] = np.arange(len(slots_P))
        inputs = {
            "patches": spread(patches.values),
            "cos": spread(cos),
            "sin": spread(sin),
            "unseen": unseen_N.reshape(num_windows, 1, 1, self.num_slots),
            "slots": slots_P.astype(np.int64),
            "back": back_N,
            "order": slots_M.astype(np.int64),
        }
        return CutPicture(inputs=inputs, height=patches.height, width=patches.width)

    def _square_slots(self, height: int, width: int) -> Array:
        """The slot number of each square, row by row, [M]."""
        rows, columns = np.mgrid[:height, :width]
        window = (rows // self.window * -(-width // self.window) + columns // self.window).reshape(-1)
        by_window = np.argsort(window, kind="stable")
        sizes = np.bincount(window)
        first_of_window = np.repeat(np.cumsum(sizes) - sizes, sizes)
        slots = np.empty(height * width, np.int64)
        within = np.arange(height * width) - first_of_window
        slots[by_window] = np.repeat(np.arange(len(sizes)), sizes) * self.window**2 + within
        return slots

    def build(self, tensors: TowerTensors) -> bytes:
        """Build the ONNX model. Raises ModelLoadError."""
        return _Tower(self, tensors).build()


class _Tower:
    def __init__(self, model: Qwen25Vision, tensors: TowerTensors) -> None:
        self._model = model
        self._tower = QwenTower(model, tensors, "slots")
        self._graph = self._tower.graph

    def build(self) -> bytes:
        graph, model = self._graph, self._model
        x_ND = self._tower.begin()
        unseen = graph.declare_input("unseen", np.float32, ["windows", 1, 1, model.num_slots])
        slots = graph.declare_input("slots", np.int64, ["patches"])
        back = graph.declare_input("back", np.int64, ["slots"])
        order = graph.declare_input("order", np.int64, ["vectors"])
        for layer in range(model.num_layers):
            places = (slots, back) if layer in model.whole_layers else None
            x_ND = self._layer(x_ND, f"visual.blocks.{layer}.", unseen, places)
        graph.declare_output(VECTORS, self._merge(x_ND, order), ["vectors", model.num_outputs])
        return graph.serialize()

    def _layer(self, x_ND: str, name: str, unseen: str, places: tuple[str, str] | None) -> str:
        """`places`: for a layer that attends over the whole picture."""
        graph, model = self._graph, self._model
        normed = graph.rms_norm(x_ND, graph.tensor(f"{name}norm1.weight", model.hidden_size), EPSILON)
        heads = self._tower.heads(normed, name)
        mixed = self._over_windows(heads, unseen) if places is None else self._over_all(heads, *places)
        attended = graph.dense(mixed, f"{name}attn.proj", model.hidden_size, model.hidden_size)
        x_ND = graph.node("Add", [x_ND, attended])
        normed = graph.rms_norm(x_ND, graph.tensor(f"{name}norm2.weight", model.hidden_size), EPSILON)
        gate, up = (
            graph.dense(normed, f"{name}mlp.{part}_proj", model.hidden_size, model.columns) for part in ("gate", "up")
        )
        inner = graph.gated("silu", gate, up)
        return graph.node("Add", [x_ND, graph.dense(inner, f"{name}mlp.down_proj", model.columns, model.hidden_size)])

    def _over_windows(self, heads: tuple[str, str, str], unseen: str) -> str:
        graph, model = self._graph, self._model
        shape = (-1, model.num_slots, model.num_heads, model.head_dim)
        query, key, value = (graph.reshape(one, shape) for one in heads)
        query = graph.scale(graph.swap(query, (0, 2, 1, 3)), model.head_dim**-0.5)
        scores = graph.node("MatMul", [query, graph.swap(key, (0, 2, 3, 1))])
        weights = graph.node("Softmax", [graph.node("Add", [scores, unseen])], axis=-1)
        mixed = graph.node("MatMul", [weights, graph.swap(value, (0, 2, 1, 3))])
        return graph.reshape(graph.swap(mixed, (0, 2, 1, 3)), (-1, model.hidden_size))

    def _over_all(self, heads: tuple[str, str, str], slots: str, back: str) -> str:
        graph, model = self._graph, self._model
        shape = (1, -1, model.hidden_size)
        rows = [graph.reshape(graph.node("Gather", [one, slots]), shape) for one in heads]
        mixed = graph.attention(rows[0], rows[1], rows[2], model.num_heads, model.head_dim**-0.5)
        return graph.node("Gather", [graph.reshape(mixed, (-1, model.hidden_size)), back])

    def _merge(self, x_ND: str, order: str) -> str:
        """The vector of each square."""
        graph, model = self._graph, self._model
        normed = graph.rms_norm(x_ND, graph.tensor("visual.merger.ln_q.weight", model.hidden_size), EPSILON)
        out = self._tower.project(self._tower.squares(normed), "visual.merger.mlp.0", "visual.merger.mlp.2")
        return graph.node("Gather", [out, order])
