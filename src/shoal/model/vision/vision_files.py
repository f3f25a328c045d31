"""What a model's files say of its vision part, and its tensors, whichever form the files have."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shoal.model.formats.huggingface.part_tensors import PartTensors, part_files
from shoal.model.formats.model_file import read_json
from shoal.model.vision.settings import VisionSettings, read_preprocessor

if TYPE_CHECKING:
    from shoal.model.vision.tower_graph import TowerTensors

PART_ENDS = {
    "qwen2_5_vl": ("visual.patch_embed.proj.weight",),
    "qwen3_vl": ("visual.patch_embed.proj.weight",),
    "qwen3_vl_moe": ("visual.patch_embed.proj.weight",),
    "gemma3": ("embeddings.patch_embedding.weight", "mm_soft_emb_norm.weight"),
}
"""Families whose vision part can be computed, and how one tensor of each of its parts ends; see `PartTensors`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VisionFiles:
    """The vision part of one model."""

    family: str
    """a key of PART_ENDS"""
    settings: VisionSettings
    """Hugging Face's `vision_config`"""
    preprocessor: VisionSettings
    """its `preprocessor_config.json`"""
    paths: tuple[Path, ...]
    """whose contents make it up"""
    open_tensors: Callable[[], TowerTensors]
    """raises ModelLoadError"""


def directory_vision(folder: Path) -> VisionFiles | None:
    """Of a Hugging Face directory; None: it has no vision part that can be computed. Raises ModelLoadError."""
    path = folder / "config.json"
    config = read_json(path) if path.exists() else {}
    family, values = str(config.get("model_type")), config.get("vision_config")
    if family not in PART_ENDS or not isinstance(values, dict):
        return None
    return VisionFiles(
        family=family,
        settings=VisionSettings(path, _beside(config) | values),
        preprocessor=read_preprocessor(folder),
        paths=tuple(part_files(folder)),
        open_tensors=lambda: PartTensors(folder, *PART_ENDS[family]),
    )


def _beside(config: Mapping[str, Any]) -> dict[str, Any]:
    """What Gemma 3 says of its vision part elsewhere."""
    text = config.get("text_config")
    width = text.get("hidden_size") if isinstance(text, dict) else None
    found = {"mm_tokens_per_image": config.get("mm_tokens_per_image"), "out_hidden_size": width}
    return {key: value for key, value in found.items() if value is not None}
