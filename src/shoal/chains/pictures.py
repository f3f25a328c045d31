"""Pictures that clients send, as pixels."""

from __future__ import annotations

import io
import warnings

import numpy as np

from shoal.arrays import Array
from shoal.errors import InvalidRequest, MissingExtra

MAX_PIXELS = 64_000_000
"""Of one picture, 192 MB as pixels: twice what cameras of phones take. A file of a few KB can announce more."""


def decode_picture(content: bytes, name: str) -> Array:
    """The pixels of a picture file, turned upright as its EXIF data say.

    Args:
        content: of any format that Pillow reads.
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
        raise MissingExtra("pictures need Pillow", "chains") from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # MAX_PIXELS is checked below
            picture = Image.open(io.BytesIO(content))
        if picture.width * picture.height > MAX_PIXELS:
            raise InvalidRequest(
                f"{name}: a picture of {picture.width} x {picture.height} pixels; at most {MAX_PIXELS:,}", name
            )
        return np.asarray(ImageOps.exif_transpose(picture).convert("RGB"))
    except InvalidRequest:
        raise
    except UnidentifiedImageError:
        raise InvalidRequest(f"{name}: not a picture of any format that is known here", name) from None
    except Exception as error:  # Pillow's decoders raise what they like for broken files
        raise InvalidRequest(f"{name}: not a picture that can be read: {error}", name) from error
