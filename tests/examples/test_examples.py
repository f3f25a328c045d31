"""The examples run as a user runs them, on the inputs that they bring and on given ones."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from examples.images import LINES, draw_page
from examples.perceptron import WAYS
from tests.real_models import package_folder

EXAMPLES = Path(__file__).parents[2] / "examples"


def run_example(name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Its own process, in the examples' own folder: nothing of the tests is on the path."""
    command = (sys.executable, EXAMPLES / name, *map(str, arguments))
    return subprocess.run(command, capture_output=True, text=True, cwd=EXAMPLES, env=os.environ, timeout=250)


def printed(name: str, *arguments: object) -> list[str]:
    """The lines on stdout of an example that ended well."""
    process = run_example(name, *arguments)
    assert process.returncode == 0, process.stderr
    return process.stdout.splitlines()


@pytest.mark.parametrize("name", sorted(path.name for path in EXAMPLES.glob("*.py")))
def test_help(name: str) -> None:
    assert printed(name, "--help")[0].startswith(f"usage: {name}")


def test_perceptron() -> None:
    head, *rows = printed("perceptron.py", "--rows", 16)
    assert head.split()[:2] == ["split", "workers"]
    assert [row.split()[:2] for row in rows] == [["1", "1"], ["dp=2", "2"], ["tp=2", "2"], ["pp=2", "2"]]
    assert [row.split()[0] for row in rows] == list(WAYS)


def test_perceptron_refuses_what_cannot_be_split() -> None:
    process = run_example("perceptron.py", "--sizes", 4, 4)
    assert process.returncode == 2
    assert "three sizes" in process.stderr


def test_images_reads_what_it_draws() -> None:
    assert printed("images.py", "--threads", 1) == list(LINES)


def test_images_reads_a_picture(tmp_path: Path) -> None:
    draw_page(["Order 66"], size=(300, 100)).save(tmp_path / "page.png")
    assert printed("images.py", tmp_path / "page.png", "--split", "1") == ["Order 66"]


def test_images_reads_a_scanned_page() -> None:
    """scikit-image's own; below these lines, the scan cuts through code in a monospaced font."""
    page = package_folder("skimage") / "data" / "page.png"
    assert printed("images.py", page, "--split", "dp=2")[:6] == [
        "Region-based segmentation",
        "Let us first determine markers of the coins and the",
        "background. These markers are pixels that we can label",
        "unambiguously as either object or background. Here,",
        "the markers are found at the two extreme parts of the",
        "histogram of grey values:",
    ]


def test_ocr_chain(tmp_path: Path) -> None:
    """Mapped over a folder: a picture with lines, one without, and a file that is none."""
    photos, texts = tmp_path / "photos", tmp_path / "texts"
    photos.mkdir()
    draw_page(LINES).save(photos / "page.png")
    draw_page([]).save(photos / "white.jpg")
    (photos / "notes.txt").write_text("no picture")
    chain = (EXAMPLES / "ocr_chain", photos, "-o", texts, "--split", "1", "--threads", "1", "--json")
    command = (sys.executable, "-m", "shoal.cli.main", "map", *map(str, chain))
    first = subprocess.run(command, capture_output=True, text=True, timeout=250)
    assert first.returncode == 1, first.stderr
    summary = json.loads(first.stdout)
    assert (summary["done"], [failure["name"] for failure in summary["failures"]]) == (2, ["notes.txt"])
    page, white = (json.loads((texts / f"{name}.json").read_text()) for name in ("page.png", "white.jpg"))
    assert page["lines"] == list(LINES)
    assert white == {"lines": [], "boxes": []}
    (photos / "notes.txt").unlink()
    again = subprocess.run((*command, "--resume"), capture_output=True, text=True, timeout=250)
    assert json.loads(again.stdout)["done_before"] == 2, again.stderr


def test_sentences(minilm: Path) -> None:
    """With a file that is exported already: the export itself is what the fixture runs."""
    lines = printed("sentences.py", "--model", minilm, "--split", "pp=2", "Cats sleep.", "Kittens nap.", "Stocks fell.")
    likeness = {line[6:].strip(): float(line[:6]) for line in lines}
    assert list(likeness) == ["Cats sleep.", "Kittens nap.", "Stocks fell."]
    assert likeness["Cats sleep."] == pytest.approx(1.0, abs=1e-3)
    assert likeness["Kittens nap."] > likeness["Stocks fell."] + 0.2
