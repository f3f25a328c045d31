"""Read the text in a picture: a text detector and a text recognizer, both split over workers.

    python examples/images.py
    python examples/images.py page.png --split dp=2

Without a picture, one is drawn. The models are PP-OCR's: those that the package rapidocr brings (its own code is not
used), or the ones given with --detector and --recognizer. Made for straight, horizontal lines of dark text.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from PIL import Image, ImageDraw, ImageFont

import shoal

F32 = npt.NDArray[np.float32]
U8 = npt.NDArray[np.uint8]
Box = tuple[int, int, int, int]
"""left, top, right, bottom in pixels"""

PACKAGE = "rapidocr"
LINES = ("Shoal swims as one", "hello world 42", "Total: 1,234.50 EUR")
LINE_HEIGHT = 48
"""Pixels: the recognizer takes no other."""
_SIDE_MULTIPLE = 32
"""The detector halves its picture five times."""
_TEXT_PROBABILITY = 0.3
"""The detector's own threshold (PP-OCR's `thresh`)."""
_MARGIN = 0.6
"""The detector marks the core of a line; this much of its height is added on every side."""
_WIDTH_STEP = 64
"""Pixels: widths of lines are multiples of it in a chain."""
_GAP = 2.5
"""Blank columns that part two texts on one line, in heights of the marked core."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Find the lines, read all of them in one batch, print them from top to bottom."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.detector is None or options.recognizer is None:
        parser.error("install the package rapidocr, or say --detector FILE and --recognizer FILE")
    page = Image.open(options.picture).convert("RGB") if options.picture else draw_page(LINES)
    settings = {"split": options.split, "threads": options.threads}
    with shoal.load(options.detector, **settings) as detector:
        (probabilities,) = detector(detector_input(page)).values()
    lines = [page.crop(box) for box in find_lines(probabilities[0, 0])]
    if not lines:
        parser.exit(message="no text found\n")
    with shoal.load(options.recognizer, **settings) as recognizer:
        (scores,) = recognizer(recognizer_input(lines)).values()
    for text in read_text(scores, characters(options.recognizer)):
        print(text)


def draw_page(lines: Sequence[str], *, size: tuple[int, int] = (640, 320)) -> Image.Image:
    """Dark text on white, line under line."""
    page = Image.new("RGB", size, "white")
    font = ImageFont.load_default(LINE_HEIGHT * 2 // 3)
    for index, line in enumerate(lines):
        middle = (index + 1) * size[1] // (len(lines) + 1)
        ImageDraw.Draw(page).text((32 + 24 * index, middle), line, fill="black", font=font, anchor="lm")
    return page


def detector_input(page: Image.Image) -> F32:
    """(1, 3, height, width), blue first, about -1 to 1; filled up with white to sides that the detector takes."""
    width, height = (-(-side // _SIDE_MULTIPLE) * _SIDE_MULTIPLE for side in page.size)
    filled = Image.new("RGB", (width, height), "white")
    filled.paste(page)
    return _pixels(filled)[np.newaxis]


def find_lines(probability_HW: F32) -> list[Box]:
    """Boxes round the text, top to bottom and left to right: runs of marked rows, cut at wide blank gaps."""
    marked_HW = probability_HW > _TEXT_PROBABILITY
    boxes: list[Box] = []
    for top, bottom in _runs(np.flatnonzero(marked_HW.any(1)), gap=1):
        height = bottom - top
        margin = round(_MARGIN * height)
        for left, right in _runs(np.flatnonzero(marked_HW[top:bottom].any(0)), gap=round(_GAP * height)):
            boxes.append((max(0, left - margin), max(0, top - margin), right + margin, bottom + margin))
    return boxes


def recognizer_input(lines: Sequence[Image.Image]) -> F32:
    """(lines, 3, 48, widest): every line scaled to the recognizer's height and filled up with white."""
    widths = [max(1, round(line.width * LINE_HEIGHT / line.height)) for line in lines]
    batch_N3HW = np.ones((len(lines), 3, LINE_HEIGHT, max(widths)), dtype=np.float32)
    for image_3HW, line, width in zip(batch_N3HW, lines, widths, strict=True):
        image_3HW[:, :, :width] = _pixels(line.resize((width, LINE_HEIGHT)))
    return batch_N3HW


@cache
def characters(recognizer: Path) -> list[str]:
    """What the recognizer's classes mean: class 0 is "nothing", the file lists the rest, a blank comes last."""
    metadata = {entry.key: entry.value for entry in onnx.load(recognizer, load_external_data=False).metadata_props}
    return ["", *metadata["character"].split("\n"), " "]


def read_text(scores_NTC: F32, alphabet: list[str]) -> list[str]:
    """The likeliest class of every step, equal neighbors merged, "nothing" left out.

    Source: Graves et al., Connectionist Temporal Classification (2006), section 3.1.
    """
    classes_NT = scores_NTC.argmax(-1)
    is_new_NT = np.diff(classes_NT, axis=1, prepend=0) != 0
    return [
        "".join(alphabet[index] for index in classes[is_new].tolist()).strip()
        for classes, is_new in zip(classes_NT, is_new_NT, strict=True)
    ]


def prepare(image: U8) -> F32:
    """A step of examples/ocr_chain: what the detector takes for a picture, (height, width, 3)."""
    return detector_input(Image.fromarray(image))


def cut(image: U8, probabilities: F32) -> tuple[list[Box], list[F32]]:
    """A step of examples/ocr_chain: where the lines are, and each as the recognizer takes it, none or many."""
    page = Image.fromarray(image)
    boxes = find_lines(probabilities[0, 0])
    return boxes, [_filled_up(recognizer_input([page.crop(box)])) for box in boxes]


def read(scores: F32) -> str:
    """A step of examples/ocr_chain: the text of one line."""
    recognizer = _packaged("PP-OCRv6_rec_small.onnx")
    assert recognizer is not None
    (text,) = read_text(scores, characters(recognizer))
    return text


def _filled_up(line_13HW: F32) -> F32:
    """With white to one of a few widths: lines of the same width are recognized together."""
    missing = -line_13HW.shape[-1] % _WIDTH_STEP
    return np.pad(line_13HW, ((0, 0), (0, 0), (0, 0), (0, missing)), constant_values=1.0)


def _pixels(image: Image.Image) -> F32:
    """(3, height, width), blue first, -1 to 1."""
    pixels_HW3 = np.asarray(image, dtype=np.float32)[:, :, ::-1]
    return np.ascontiguousarray(pixels_HW3.transpose(2, 0, 1)) / 127.5 - 1


def _runs(marks: npt.NDArray[np.intp], *, gap: int) -> Iterator[tuple[int, int]]:
    """First and past-the-last index of every run of marks; blanks no wider than `gap` do not end one."""
    if marks.size:
        for run in np.split(marks, np.flatnonzero(np.diff(marks) > gap) + 1):
            yield int(run[0]), int(run[-1]) + 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Read the text in a picture.")
    parser.add_argument("picture", nargs="?", type=Path, help="default: one that is drawn")
    parser.add_argument("--detector", type=Path, default=_packaged("PP-OCRv6_det_small.onnx"), help="an ONNX file")
    parser.add_argument("--recognizer", type=Path, default=_packaged("PP-OCRv6_rec_small.onnx"), help="an ONNX file")
    parser.add_argument("--split", default="pp=2", help="how to split each model: 1, pp=2, dp=2 ... (%(default)s)")
    parser.add_argument("--threads", type=int, help="of each worker (default: the cores divided among the workers)")
    return parser


def _packaged(name: str) -> Path | None:
    """A model that the package brings, if it is installed. Found without importing it."""
    spec = find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(spec.submodule_search_locations[0]) / "models" / name


if __name__ == "__main__":
    main()
