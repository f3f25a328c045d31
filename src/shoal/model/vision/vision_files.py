"""The settings and tensors of a model's vision part, whatever the file format."""

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
"""Families whose vision part can be computed, with the end of the name of one tensor in each of its parts; see
`PartTensors`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VisionFiles:
    """The vision part of one model."""

    family: str
    """A key of PART_ENDS."""
    settings: VisionSettings
    """Hugging Face's `vision_config`."""
    preprocessor: VisionSettings
    """The content of Hugging Face's `preprocessor_config.json`."""
    paths: tuple[Path, ...]
    """Files on whose content the vision part depends."""
    open_tensors: Callable[[], TowerTensors]
    """Opens the tensors; raises ModelLoadError."""


def directory_vision(folder: Path) -> VisionFiles | None:
    """The vision part in a Hugging Face directory; None: it has none that can be computed. Raises ModelLoadError."""
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
    """Settings of the vision part that Gemma 3 has elsewhere."""
    text = config.get("text_config")
    width = text.get("hidden_size") if isinstance(text, dict) else None
    found = {"mm_tokens_per_image": config.get("mm_tokens_per_image"), "out_hidden_size": width}
    return {key: value for key, value in found.items() if value is not None}
