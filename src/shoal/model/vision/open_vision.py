"""The vision part of a model in a Hugging Face directory, whichever family it is of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from shoal.model.formats.model_file import read_json
from shoal.model.graph.kept_graph import kept_graph
from shoal.model.vision.cut_picture import VisionModel
from shoal.model.vision.gemma3 import Gemma3Vision
from shoal.model.vision.qwen2_5 import Qwen25Vision
from shoal.model.vision.qwen3 import Qwen3Vision
from shoal.model.vision.settings import VisionSettings, read_preprocessor

_VERSION = 1
"""Of built graphs: raised when they are built otherwise."""


def sees_pictures(path: Path) -> bool:
    """Whether a model's files say that it has a vision part that can be computed. Raises ModelLoadError."""
    config = path / "config.json"
    return path.is_dir() and config.exists() and _opener(read_json(config)) is not None


def open_vision(folder: Path) -> VisionModel:
    """Read the settings of a model that `sees_pictures`, and build the graph where it is not in the cache.

    Raises:
        ModelLoadError: a setting or a tensor is missing, broken or not supported.
    """
    config = read_json(folder / "config.json")
    opener = _opener(config)
    assert opener is not None
    return opener(folder, VisionSettings(folder / "config.json", config["vision_config"]))


def _opener(config: Mapping[str, Any]) -> Callable[[Path, VisionSettings], VisionModel] | None:
    if not isinstance(config.get("vision_config"), dict):
        return None
    return _OPENERS.get(str(config.get("model_type")))


def _open_qwen2_5(folder: Path, vision: VisionSettings) -> VisionModel:
    model = Qwen25Vision.read(vision, read_preprocessor(folder))
    return VisionModel(
        graph=kept_graph("vision", folder, f"{_VERSION} qwen2_5 {model}", lambda: model.build(folder)),
        cutter=model,
        placeholder="<|image_pad|>",
        mark="<|image_pad|>",
        has_axes=True,
    )


def _open_gemma3(folder: Path, vision: VisionSettings) -> VisionModel:
    whole = VisionSettings(vision.path, read_json(vision.path))
    model = Gemma3Vision.read(vision, read_preprocessor(folder), whole.size("mm_tokens_per_image", 256))
    return VisionModel(
        graph=kept_graph("vision", folder, f"{_VERSION} gemma3 {model}", lambda: model.build(folder)),
        cutter=model,
        placeholder="<image_soft_token>",
        mark="<start_of_image>",
        around=("\n\n<start_of_image>", "<end_of_image>\n\n"),
        sees_whole=True,
    )


def _open_qwen3(folder: Path, vision: VisionSettings) -> VisionModel:
    model = Qwen3Vision.read(vision, read_preprocessor(folder))
    return VisionModel(
        graph=kept_graph("vision", folder, f"{_VERSION} qwen3 {model}", lambda: model.build(folder)),
        cutter=model,
        placeholder="<|image_pad|>",
        mark="<|image_pad|>",
        has_axes=True,
        num_deep_layers=len(model.deep_layers),
    )


_OPENERS: Mapping[str, Callable[[Path, VisionSettings], VisionModel]] = {
    "qwen2_5_vl": _open_qwen2_5,
    "qwen3_vl": _open_qwen3,
    "qwen3_vl_moe": _open_qwen3,
    "gemma3": _open_gemma3,
}
