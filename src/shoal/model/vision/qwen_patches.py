"""Preparation of pictures for Qwen-VL models: each keeps a size of its own, and squares of patches become one vector.

Source: Qwen2-VL, arXiv 2409.12191, section 2.1; transformers, models/qwen2_vl, `smart_resize`.

Shapes: H x W patches of a picture, P = H W of them, F values of a patch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from shoal.arrays import F32, Array
from shoal.errors import InvalidRequest, ModelLoadError
from shoal.model.vision.pixels import normalize, resize
from shoal.model.vision.settings import VisionSettings

_MOST_ASPECT = 200
"""Largest ratio of a picture's sides. Source: transformers, `smart_resize`."""
_MEAN, _DEVIATION = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""Mean and deviation of colors. Source: CLIP, arXiv 2103.00020, its published preprocessing"""


class Patches(NamedTuple):
    """A picture as patches."""

    values: F32
    """Values [P, F], square by square; the squares lie row by row."""
    height: int
    """Height in squares."""
    width: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PatchCutter:
    """Sizes of patches and of pictures."""

    patch: int
    """Width and height of a patch in pixels."""
    frames: int
    """Frames of a patch, which are all equal in a picture."""
    merge: int
    """Patches along each side of a square."""
    fewest_pixels: int
    most_pixels: int
    factor: float
    """Factor on pixels."""
    mean: tuple[float, ...]
    deviation: tuple[float, ...]

    @classmethod
    def read(cls, preprocessor: VisionSettings, vision: VisionSettings) -> PatchCutter:
        """Read the settings from the model's files. Raises ModelLoadError."""
        size = preprocessor.part("size")
        cutter = cls(
            patch=vision.size("patch_size", 14),
            frames=vision.size("temporal_patch_size", 2),
            merge=vision.size("spatial_merge_size", 2),
            fewest_pixels=_pixels(preprocessor, size, "min_pixels", "shortest_edge", 56 * 56),
            most_pixels=_pixels(preprocessor, size, "max_pixels", "longest_edge", 28 * 28 * 1280),
            factor=preprocessor.number("rescale_factor", 1 / 255),
            mean=preprocessor.numbers("image_mean", _MEAN, 3),
            deviation=preprocessor.numbers("image_std", _DEVIATION, 3),
        )
        if vision.size("in_channels", vision.size("in_chans", 3)) != 3 or min(cutter.deviation) <= 0:
            raise ModelLoadError(f"{vision.path}: pictures have three colors, each with a deviation above 0")
        return cutter

    @property
    def num_values(self) -> int:
        """F"""
        return 3 * self.frames * self.patch**2

    def cut(self, pixels: Array) -> Patches:
        """Cut a picture. Raises InvalidRequest if one side is far longer than the other."""
        height, width = self.fitting_size(*pixels.shape[:2])
        values = normalize(resize(pixels, height, width, "bicubic"), self.factor, self.mean, self.deviation)
        rows, columns = height // (self.patch * self.merge), width // (self.patch * self.merge)
        parts = values.reshape(rows, self.merge, self.patch, columns, self.merge, self.patch, 3)
        by_patch = parts.transpose(0, 3, 1, 4, 6, 2, 5)[:, :, :, :, :, None]
        all_frames = np.broadcast_to(by_patch, (*by_patch.shape[:5], self.frames, *by_patch.shape[6:]))
        return Patches(np.ascontiguousarray(all_frames.reshape(-1, self.num_values)), rows, columns)

    def fitting_size(self, height: int, width: int) -> tuple[int, int]:
        """The size in pixels to which a picture is scaled: whole squares, within the limits, with nearly the same
        aspect ratio."""
        if max(height, width) > _MOST_ASPECT * min(height, width):
            raise InvalidRequest(
                f"a picture of {width} x {height} pixels is more than {_MOST_ASPECT} times as long as wide", "messages"
            )
        side = self.patch * self.merge
        fit_height, fit_width = round(height / side) * side, round(width / side) * side
        if fit_height * fit_width > self.most_pixels:
            shrink = math.sqrt(height * width / self.most_pixels)
            return (
                max(side, math.floor(height / shrink / side) * side),
                max(side, math.floor(width / shrink / side) * side),
            )
        if fit_height * fit_width < self.fewest_pixels:
            grow = math.sqrt(self.fewest_pixels / (height * width))
            return math.ceil(height * grow / side) * side, math.ceil(width * grow / side) * side
        return fit_height, fit_width

    def places(self, height: int, width: int) -> Array:
        """Row and column of every patch of a picture with this many squares, [P, 2] in the order of `cut`."""
        rows, columns = np.mgrid[: height * self.merge, : width * self.merge]
        both = np.stack([rows, columns], axis=-1)
        squares = both.reshape(height, self.merge, width, self.merge, 2).transpose(0, 2, 1, 3, 4)
        return squares.reshape(-1, 2)


def angles(places_P2: Array, head_dim: int, theta: float) -> tuple[F32, F32]:
    """Cosine and sine [P, head_dim / 2] of patches: half of the frequencies are rotated by the row, half by the column.

    In single precision, as in the models' training.
    """
    half = head_dim // 2
    exponents = np.arange(0, half, 2, dtype=np.float32) / np.float32(half)
    frequencies = np.float32(1.0) / np.power(np.float32(theta), exponents)
    turned = (places_P2[:, :, None].astype(np.float32) * frequencies).reshape(len(places_P2), half)
    return np.cos(turned), np.sin(turned)


def _pixels(preprocessor: VisionSettings, size: VisionSettings, old: str, new: str, default: int) -> int:
    """A number of pixels, under either of the names that transformers has used."""
    value = preprocessor.number(old, default) if old in preprocessor else size.number(new, default)
    if value < 1 or value != int(value):
        raise ModelLoadError(f"{preprocessor.path}: {new!r} is {value}, which is not a number of pixels")
    return int(value)
