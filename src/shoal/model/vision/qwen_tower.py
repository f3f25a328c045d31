"""What the vision parts of Qwen2.5-VL and Qwen3-VL have in common: sizes, the embedding of patches, rotated heads.

Shapes: N rows of patches (some of which may be empty), D hidden size, F values of a patch, H heads of C columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from shoal.errors import ModelLoadError
from shoal.model.vision.qwen_patches import PatchCutter
from shoal.model.vision.settings import VisionSettings
from shoal.model.vision.tower_graph import TowerGraph, TowerTensors

EPSILON = 1e-6
"""Epsilon of all norms, whatever a file says. Source: transformers, Qwen2_5_VLVisionBlock and Qwen3VLVisionBlock"""
_PATCHES = "visual.patch_embed.proj.weight"


@dataclass(frozen=True, slots=True, kw_only=True)
class QwenSizes:
    """Sizes of both families."""

    cutter: PatchCutter
    num_layers: int
    hidden_size: int
    num_heads: int
    columns: int
    """Columns of the MLP."""
    num_outputs: int
    """Columns of a vector, as in the language model."""
    theta: float

    @property
    def head_dim(self) -> int:
        """C"""
        return self.hidden_size // self.num_heads


def read_sizes(
    vision: VisionSettings,
    preprocessor: VisionSettings,
    *,
    layers: int,
    hidden_size: int,
    columns: int,
    activation: str,
) -> dict[str, Any]:
    """Fields of `QwenSizes` from the model's files; the arguments are defaults, `activation` the only supported one.

    Raises:
        ModelLoadError: a size or the MLP's activation is not supported.
    """
    hidden, heads = vision.size("hidden_size", hidden_size), vision.size("num_heads", 16)
    if hidden % (4 * heads) or vision.word("hidden_act", activation) != activation:
        raise ModelLoadError(f"{vision.path}: a vision part of {heads} heads of {hidden} columns is not supported")
    return {
        "cutter": PatchCutter.read(preprocessor, vision),
        "num_layers": vision.size("depth", layers),
        "hidden_size": hidden,
        "num_heads": heads,
        "columns": vision.size("intermediate_size", columns),
        "num_outputs": vision.size("out_hidden_size", 3584),
        "theta": vision.part("rope_parameters").number("rope_theta", 10000.0),
    }


class QwenTower:
    """The beginning of a graph, and parts of each of its layers."""

    def __init__(self, sizes: QwenSizes, tensors: TowerTensors, rows: str) -> None:
        """`rows`: name of the number of rows."""
        self.graph, self._sizes, self._rows = TowerGraph(tensors), sizes, rows
        self._turns = ("", "")

    def begin(self) -> str:
        """Declare the inputs of both families, and multiply the patches by their matrix: [N, D]."""
        graph, sizes, half = self.graph, self._sizes, self._sizes.head_dim // 2
        side = sizes.cutter.patch
        patches_NF = graph.declare_input("patches", np.float32, [self._rows, sizes.cutter.num_values])
        cos, sin = (graph.declare_input(name, np.float32, [self._rows, half]) for name in ("cos", "sin"))
        self._turns = (graph.node("Unsqueeze", [cos, graph.ints(1)]), graph.node("Unsqueeze", [sin, graph.ints(1)]))
        weight = graph.tensor(_PATCHES, sizes.hidden_size, 3, sizes.cutter.frames, side, side)
        matrix_FD = weight.reshape(sizes.hidden_size, -1).T
        return graph.node("MatMul", [patches_NF, graph.matrix(_PATCHES, matrix_FD)])

    def heads(self, normed_ND: str, name: str) -> tuple[str, str, str]:
        """Queries, keys and values of a layer, queries and keys rotated: [N, H, C] each."""
        graph, sizes = self.graph, self._sizes
        hidden, num_heads, head_dim = sizes.hidden_size, sizes.num_heads, sizes.head_dim
        joined = graph.dense(normed_ND, f"{name}attn.qkv", hidden, 3 * hidden)
        query, key, value = graph.split(joined, [hidden] * 3)
        return (
            graph.turn(query, self._turns, num_heads, head_dim),
            graph.turn(key, self._turns, num_heads, head_dim),
            graph.reshape(value, (0, num_heads, head_dim)),
        )

    def squares(self, x_ND: str) -> str:
        """The patches of each square side by side: [squares, merge ** 2 * D]."""
        return self.graph.reshape(x_ND, (-1, self._square_width))

    def project(self, x: str, first: str, second: str) -> str:
        """The vector of each square, through two linear layers with these names."""
        graph, width = self.graph, self._square_width
        inner = graph.activation("gelu", graph.dense(x, first, width, width))
        return graph.dense(inner, second, width, self._sizes.num_outputs)

    @property
    def _square_width(self) -> int:
        return self._sizes.hidden_size * self._sizes.cutter.merge**2
