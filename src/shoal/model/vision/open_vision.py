"""Opens the vision part of a model, whatever its family and files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from shoal.model.graph.kept_graph import kept_graph
from shoal.model.vision.cut_picture import PictureCutter, VisionModel
from shoal.model.vision.gemma3 import Gemma3Vision
from shoal.model.vision.qwen2_5 import Qwen25Vision
from shoal.model.vision.qwen3 import Qwen3Vision
from shoal.model.vision.tower_graph import TowerTensors
from shoal.model.vision.vision_files import VisionFiles

_VERSION = 2
"""Version of the builders of graphs. Raise it when they change."""


class _Part(PictureCutter, Protocol):
    def build(self, tensors: TowerTensors) -> bytes: ...


def open_vision(files: VisionFiles) -> VisionModel:
    """Read the settings, and build the graph if it is not in the cache.

    Raises:
        ModelLoadError: a setting or a tensor is missing, broken or not supported.
    """
    return _OPENERS[files.family](files)


def _graph(files: VisionFiles, part: _Part) -> Path:
    what = f"{_VERSION} {files.family} {part}"
    return kept_graph("vision", files.paths, what, lambda: part.build(files.open_tensors()))


def _open_qwen2_5(files: VisionFiles) -> VisionModel:
    model = Qwen25Vision.read(files.settings, files.preprocessor)
    return VisionModel(graph=_graph(files, model), cutter=model, num_columns=model.num_outputs, **_QWEN)


def _open_qwen3(files: VisionFiles) -> VisionModel:
    model = Qwen3Vision.read(files.settings, files.preprocessor)
    return VisionModel(
        graph=_graph(files, model),
        cutter=model,
        num_columns=model.num_outputs,
        num_deep_layers=len(model.deep_layers),
        **_QWEN,
    )


def _open_gemma3(files: VisionFiles) -> VisionModel:
    model = Gemma3Vision.read(files.settings, files.preprocessor)
    return VisionModel(
        graph=_graph(files, model),
        cutter=model,
        num_columns=model.num_outputs,
        placeholders=("<image_soft_token>", "<unused0>"),
        mark="<start_of_image>",
        around=("\n\n<start_of_image>", "<end_of_image>\n\n"),
        sees_whole=True,
    )


_QWEN: Mapping[str, Any] = {"placeholders": ("<|image_pad|>",), "mark": "<|image_pad|>", "has_axes": True}
_OPENERS: Mapping[str, Callable[[VisionFiles], VisionModel]] = {
    "qwen2_5_vl": _open_qwen2_5,
    "qwen3_vl": _open_qwen3,
    "qwen3_vl_moe": _open_qwen3,
    "gemma3": _open_gemma3,
}
