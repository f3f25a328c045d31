"""Pictures as cameras, scanners and attackers make them, against transformers and in bounds of time and memory."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import zlib
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from shoal.errors import InvalidRequest
from shoal.model.vision.pixels import MAX_PIXELS, decode_picture, pixel_bytes
from shoal.model.vision.qwen_patches import PatchCutter
from shoal.model.vision.settings import VisionSettings
from tests.model.tiny_vision import picture

MOST_GROWTH_MB = 100
"""Of a process that is sent a bomb: far below its 1.2 GB as pixels."""


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def bomb(side: int) -> bytes:
    """A PNG of so many pixels a side, all black, in some hundred KB."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    squeeze = zlib.compressobj(9, wbits=-15)
    hundred_rows = squeeze.compress(bytes(100 * (1 + 3 * side))) + squeeze.flush(zlib.Z_FULL_FLUSH)
    data = b"\x78\x9c" + hundred_rows * (side // 100)  # blocks that know nothing of each other
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def test_a_bomb_is_refused_before_it_goes_off(tmp_path: Path) -> None:
    """In a process of its own, whose peak of memory is its own."""
    content = bomb(20_000)
    assert len(content) < 2 << 20
    (tmp_path / "bomb.png").write_bytes(content)
    script = """
import resource, sys
from pathlib import Path
from PIL import Image, PngImagePlugin
from shoal.errors import InvalidRequest
from shoal.model.vision.pixels import MAX_PIXELS, decode_picture, pixel_bytes
content = Path(sys.argv[1]).read_bytes()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    decode_picture(content, "a picture")
except InvalidRequest as error:
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10, error)
"""
    command = [sys.executable, "-c", script, str(tmp_path / "bomb.png")]
    said = subprocess.run(command, capture_output=True, text=True, timeout=250, check=True).stdout
    growth_mb, message = said.split(" ", 1)
    assert "at most 64,000,000" in message or "more than 64,000,000" in message
    assert int(growth_mb) < MOST_GROWTH_MB


def test_one_pixel_is_a_picture() -> None:
    assert decode_picture(saved(Image.new("RGB", (1, 1), (1, 2, 3)), "PNG"), "x").tolist() == [[[1, 2, 3]]]


def test_the_first_frame_of_an_animation() -> None:
    frames = [Image.new("RGB", (8, 8), color) for color in ((255, 0, 0), (0, 255, 0))]
    content = saved(frames[0], "GIF", save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(decode_picture(content, "x"), np.full((8, 8, 3), (255, 0, 0)))


def test_sixteen_bits_of_gray_are_not_all_white() -> None:
    gray = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
    pixels = decode_picture(saved(Image.fromarray(gray), "PNG"), "x")
    np.testing.assert_array_equal(pixels, np.repeat((gray >> 8).astype(np.uint8)[:, :, None], 3, axis=2))


def test_values_without_a_white_are_refused() -> None:
    floats = saved(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF")
    with pytest.raises(InvalidRequest, match="32-bit values"):
        decode_picture(floats, "x")


def test_printers_colors_become_those_of_screens() -> None:
    """As Pillow has them: ink that is not there is white."""
    content = saved(Image.new("CMYK", (16, 16), (0, 0, 0, 0)), "JPEG", quality=100)
    np.testing.assert_array_equal(decode_picture(content, "x"), np.full((16, 16, 3), 255))


@pytest.mark.parametrize("turn", range(1, 9))
def test_pictures_are_turned_upright(turn: int) -> None:
    """The tag says how a camera was held. Source: EXIF 2.32, `Orientation`."""
    upright = picture(0)
    back = {
        1: lambda x: x,
        2: lambda x: x[:, ::-1],
        3: lambda x: x[::-1, ::-1],
        4: lambda x: x[::-1],
        5: lambda x: x.swapaxes(0, 1),
        6: lambda x: np.rot90(x, 1),
        7: lambda x: x[::-1, ::-1].swapaxes(0, 1),
        8: lambda x: np.rot90(x, -1),
    }[turn]
    exif = Image.Exif()
    exif[0x0112] = turn
    content = saved(Image.fromarray(np.ascontiguousarray(back(upright))), "PNG", exif=exif)
    np.testing.assert_array_equal(decode_picture(content, "x"), upright)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF"])
def test_what_is_cut_off_is_refused(kind: str) -> None:
    content = saved(Image.fromarray(picture(0)), kind)
    for length in (len(content) // 2, 30, 4, 0):
        with pytest.raises(InvalidRequest):
            decode_picture(content[:length], "x")


@pytest.mark.parametrize("name", ["china.jpg", "flower.jpg"])
def test_photographs_are_cut_as_transformers_cuts_them(name: str) -> None:
    """Those of scikit-learn, 640 x 427 pixels."""
    pytest.importorskip("transformers")
    found = find_spec("sklearn")
    if found is None or found.origin is None:
        pytest.skip("scikit-learn is not installed")
    content = (Path(found.origin).parent / "datasets" / "images" / name).read_bytes()
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    processor = Qwen2VLImageProcessorPil(min_pixels=56 * 56, max_pixels=28 * 28 * 1280)
    theirs = processor([Image.open(io.BytesIO(content))], return_tensors="np")
    empty = VisionSettings(Path("none"), {})
    ours = PatchCutter.read(empty, empty).cut(decode_picture(content, "x"))
    assert [2 * ours.height, 2 * ours.width] == theirs["image_grid_thw"][0, 1:].tolist()
    np.testing.assert_allclose(ours.values, theirs["pixel_values"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ["png", "jpeg", "gif", "tiff"])
def test_what_a_file_takes_is_known_before_it_is_decoded(kind: str) -> None:
    content = saved(Image.new("RGB", (30, 20)), kind)
    assert pixel_bytes(content) == decode_picture(content, "image").nbytes
    assert pixel_bytes(content[:10]) == pixel_bytes(b"") == 0
    assert pixel_bytes(bomb(10_000)) == 3 * MAX_PIXELS
