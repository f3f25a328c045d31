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
"""Largest picture, 192 MB as pixels: twice what phone cameras take. A file of a few KB can claim more."""
Resample = Literal["bilinear", "bicubic"]


@dataclass(frozen=True, slots=True)
class OpenPicture:
    """A picture that Pillow has opened."""

    image: Any
    """`PIL.Image.Image`"""


PictureSource = str | Path | bytes | OpenPicture
"""A picture's URL or file, the content of a file, or an image from Pillow."""


def is_image(value: Any) -> bool:
    """Whether the value is an image from Pillow; false if Pillow is not installed."""
    try:
        from PIL import Image
    except ModuleNotFoundError:
        return False
    return isinstance(value, Image.Image)


def decode_picture(content: bytes | OpenPicture, name: str) -> Array:
    """The pixels of a picture, rotated as its EXIF data say.

    Args:
        content: of a file in any format that Pillow reads, or what Pillow has opened.
        name: of the input, for messages.

    Returns:
        (height, width, 3), RGB, uint8.

    Raises:
        InvalidRequest: the content is not a picture, is broken, or is too large.
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
            ImageOps.exif_transpose(picture, in_place=True)  # copies nothing if nothing is rotated
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
    except Exception as error:  # Pillow's decoders raise any exception for broken files
        raise InvalidRequest(f"{name}: the picture cannot be read: {error}", name) from error


def pixel_bytes(content: bytes) -> int:
    """Size in bytes of a picture's decoded pixels, by its header; 0 if that cannot be read: decoding reports why."""
    try:
        from PIL import Image

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            picture = Image.open(io.BytesIO(content))
    except Exception:  # Pillow's decoders raise any exception for broken files
        return 0
    return 3 * min(picture.width * picture.height, MAX_PIXELS)


def _in_eight_bits(picture: Any) -> Any:
    """A picture from Pillow with 16-bit gray values, converted to 8 bits. Pillow's own conversion makes all values
    above 255 white. Raises InvalidRequest for values without a defined white."""
    if picture.mode in ("I", "F"):
        raise InvalidRequest("a picture of 32-bit values has no defined white")
    if not picture.mode.startswith("I;16"):
        return picture
    from PIL import Image

    return Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))


def resize(pixels: Array, height: int, width: int, resample: Resample) -> Array:
    """The picture in another size, [height, width, 3] uint8, resized by Pillow."""
    from PIL import Image

    kinds = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
    return np.asarray(Image.fromarray(pixels).resize((width, height), kinds[resample]))


def normalize(pixels: Array, factor: float, mean: Sequence[float], deviation: Sequence[float]) -> F32:
    """(pixels * factor - mean) / deviation, for each color."""
    scaled = pixels.astype(np.float32) * np.float32(factor)
    return (scaled - np.array(mean, np.float32)) / np.array(deviation, np.float32)
