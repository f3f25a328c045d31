"""Pictures that clients send, as pixels."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from shoal.arrays import F32, Array
from shoal.errors import InvalidRequest, MissingExtra

MAX_PIXELS = 64_000_000
"""Of one picture, 192 MB as pixels: twice what cameras of phones take. A file of a few KB can announce more."""
Resample = Literal["bilinear", "bicubic"]


@dataclass(frozen=True, slots=True)
class OpenPicture:
    """A picture that Pillow has opened."""

    image: Any
    """`PIL.Image.Image`"""


PictureSource = str | Path | bytes | OpenPicture
"""where a picture comes from: a URL, a file, the content of one, or Pillow"""


def is_image(value: Any) -> bool:
    """Whether it is one of Pillow's. Where Pillow is not installed, nothing is."""
    try:
        from PIL import Image
    except ModuleNotFoundError:
        return False
    return isinstance(value, Image.Image)


def decode_picture(content: bytes | OpenPicture, name: str) -> Array:
    """The pixels of a picture, turned upright as its EXIF data say.

    Args:
        content: of a file in any format that Pillow reads, or what Pillow has opened.
        name: of the input, for messages.

    Returns:
        (height, width, 3), RGB, uint8.

    Raises:
        InvalidRequest: it is no picture, broken, or too large.
        MissingExtra: Pillow is not installed.
    """
    try:
        from PIL import Image, ImageOps, UnidentifiedImageError
    except ModuleNotFoundError:
        raise MissingExtra("pictures need Pillow", "vision") from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # MAX_PIXELS is checked below
            picture = Image.open(io.BytesIO(content)) if isinstance(content, bytes) else content.image
        if picture.width * picture.height > MAX_PIXELS:
            raise InvalidRequest(
                f"{name}: the picture has {picture.width} x {picture.height} pixels, but at most "
                f"{MAX_PIXELS:,} are allowed",
                name,
            )
        if isinstance(content, bytes):
            ImageOps.exif_transpose(picture, in_place=True)  # which copies nothing where nothing is turned
        else:
            picture = ImageOps.exif_transpose(picture)
        picture = _in_eight_bits(picture)
        return np.asarray(picture if picture.mode == "RGB" else picture.convert("RGB"))
    except InvalidRequest:
        raise
    except UnidentifiedImageError:
        raise InvalidRequest(f"{name}: this is not a picture in any known format", name) from None
    except Image.DecompressionBombError:
        raise InvalidRequest(f"{name}: the picture has more than {MAX_PIXELS:,} pixels", name) from None
    except Exception as error:  # Pillow's decoders raise what they like for broken files
        raise InvalidRequest(f"{name}: the picture cannot be read: {error}", name) from error


def _in_eight_bits(picture: Any) -> Any:
    """A picture of Pillow's whose gray values have 16 bits, with 8: Pillow's own conversion makes all white that is
    above 255. Raises InvalidRequest for values that have no white."""
    if picture.mode in ("I", "F"):
        raise InvalidRequest("a picture of 32-bit values has no defined white")
    if not picture.mode.startswith("I;16"):
        return picture
    from PIL import Image

    return Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))


def resize(pixels: Array, height: int, width: int, resample: Resample) -> Array:
    """Another size, [height, width, 3] uint8, as Pillow makes it."""
    from PIL import Image

    kinds = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
    return np.asarray(Image.fromarray(pixels).resize((width, height), kinds[resample]))


def normalize(pixels: Array, factor: float, mean: Sequence[float], deviation: Sequence[float]) -> F32:
    """(pixels * factor - mean) / deviation, by color."""
    scaled = pixels.astype(np.float32) * np.float32(factor)
    return (scaled - np.array(mean, np.float32)) / np.array(deviation, np.float32)
