"""The vision part of a model in GGUF files: a file beside the model, which llama.cpp calls a multimodal projector.

Its metadata are converted to Hugging Face's settings, and its tensors are known by Hugging Face's names, so that one
description of a family serves both formats.

Source of the keys: gguf-py/gguf/constants.py, `Keys.Clip`; of what no key says: llama.cpp, tools/mtmd/clip.cpp.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from shoal.errors import ModelLoadError, while_reading
from shoal.model.formats.gguf.header import GgufHeader
from shoal.model.vision.projector.projector_tensors import ProjectorTensors
from shoal.model.vision.settings import VisionSettings
from shoal.model.vision.vision_files import VisionFiles

_logger = logging.getLogger("shoal.model")
ARCHITECTURE = "clip"
"""Architecture in the metadata of such a file."""
_TYPES = {"qwen2.5vl_merger": "qwen2_5_vl", "qwen3vl_merger": "qwen3_vl", "gemma3": "gemma3"}
"""Families by the name of their projector."""
_POSITIONS = "v.position_embd.weight"
_FEWEST_VECTORS, _MOST_VECTORS = 8, 4096
"""Vectors of a picture in Qwen's models, if the file does not give limits. Source: clip.cpp,
`set_limit_image_tokens`"""
_WINDOW = 112
"""Width of a Qwen2.5-VL window in pixels, which its files do not give. Source: clip-model.h, `attn_window_size`"""
_POOLED = 4
"""Patches along each side of a square that Gemma 3 pools to one vector. Source: clip.cpp"""


def projector_beside(path: Path) -> Path | None:
    """The only projector beside a model's GGUF file, recognized by its name; None: there is none, or several."""
    if path.is_dir():
        return None
    found = [file for file in path.parent.glob("*mmproj*.gguf") if file != path]
    if len(found) > 1:
        _logger.warning(
            "found %d multimodal projectors beside %s: name one with --mmproj to send pictures", len(found), path
        )
    return found[0] if len(found) == 1 else None


def projector_vision(path: Path) -> VisionFiles:
    """The vision part in a projector file.

    Raises:
        ModelLoadError: the file is broken, is not a projector, or is one of a model that is not supported.
    """
    with while_reading(path):
        header = GgufHeader(path)
        if header.metadata.get("general.architecture") != ARCHITECTURE:
            raise ModelLoadError(f"{path} is not a multimodal projector: its architecture is not {ARCHITECTURE!r}")
        keys = ("clip.projector_type", "clip.vision.projector_type")
        name = next((header.metadata[key] for key in keys if key in header.metadata), None)
        family = _TYPES.get(str(name))
        if family is None:
            known = ", ".join(_TYPES)
            raise ModelLoadError(f"{path}: projectors of type {name!r:.100} are not supported; there are {known}")
        settings = _Settings(header)
        vision = settings.common() | _OWN[family](settings)
    return VisionFiles(
        family=family,
        settings=VisionSettings(path, vision),
        preprocessor=VisionSettings(path, settings.preprocessor(vision)),
        paths=(path,),
        open_tensors=lambda: ProjectorTensors(header, tuple(vision.get("deepstack_visual_indexes", ()))),
    )


class _Settings:
    """The metadata of a file in Hugging Face's terms. Readers check the values."""

    def __init__(self, header: GgufHeader) -> None:
        self._header = header

    def get(self, key: str) -> Any:
        return self._header.metadata.get(f"clip.vision.{key}", self._header.array(f"clip.vision.{key}"))

    def positive(self, key: str, default: int | None = None) -> int:
        value = default if self.get(key) is None else self.get(key)
        if type(value) is not int or value < 1:
            raise ModelLoadError(f"{self._header.path}: clip.vision.{key} is {value!r:.100}")
        return value

    def common(self) -> dict[str, Any]:
        """Settings of all families, under the names of each of them."""
        layers, heads = self.positive("block_count"), self.positive("attention.head_count")
        found = {
            "depth": layers,
            "num_hidden_layers": layers,
            "num_heads": heads,
            "num_attention_heads": heads,
            "hidden_size": self.positive("embedding_length"),
            "intermediate_size": self.positive("feed_forward_length"),
            "out_hidden_size": self.positive("projection_dim"),
            "patch_size": self.positive("patch_size"),
            "spatial_merge_size": self.positive("spatial_merge_size", 2),
        }
        return found | self._activation()

    def preprocessor(self, vision: Mapping[str, Any]) -> dict[str, Any]:
        vector_pixels = (vision["patch_size"] * vision["spatial_merge_size"]) ** 2
        found = {
            "min_pixels": self.positive("image_min_pixels", _FEWEST_VECTORS * vector_pixels),
            "max_pixels": self.positive("image_max_pixels", _MOST_VECTORS * vector_pixels),
            "image_mean": self.get("image_mean"),
            "image_std": self.get("image_std"),
        }
        return {key: value for key, value in found.items() if value is not None}

    def qwen2_5(self) -> dict[str, Any]:
        """Settings of Qwen2.5-VL, in which every n-th layer attends over the whole picture."""
        every = self.positive("n_wa_pattern")
        whole = [layer for layer in range(self.positive("block_count")) if (layer + 1) % every == 0]
        return {"fullatt_block_indexes": whole, "window_size": self.positive("window_size", _WINDOW)}

    def qwen3(self) -> dict[str, Any]:
        positions = self._header.tensors.get(_POSITIONS)
        if positions is None:
            raise ModelLoadError(f"{self._header.path}: there is no tensor {_POSITIONS}")
        is_deep = self.get("is_deepstack_layers") or []
        return {
            "num_position_embeddings": positions.num_rows,
            "deepstack_visual_indexes": [layer for layer, deep in enumerate(is_deep) if deep],
        }

    def gemma3(self) -> dict[str, Any]:
        side = self.positive("image_size")
        vectors_side = side // self.positive("patch_size") // self.positive("projector.scale_factor", _POOLED)
        epsilon = self.get("attention.layer_norm_epsilon")
        found = {"image_size": side, "mm_tokens_per_image": vectors_side**2}
        return found if epsilon is None else found | {"layer_norm_eps": epsilon}

    def _activation(self) -> dict[str, str]:
        for key, name in (("clip.use_silu", "silu"), ("clip.use_gelu", "gelu_pytorch_tanh")):
            if self._header.metadata.get(key) is True:
                return {"hidden_act": name}
        return {}


_OWN: Mapping[str, Callable[[_Settings], dict[str, Any]]] = {
    "qwen2_5_vl": _Settings.qwen2_5,
    "qwen3_vl": _Settings.qwen3,
    "gemma3": _Settings.gemma3,
}
