"""Broken files, the same every time; `make fuzz` goes on with others."""

from pathlib import Path

import pytest

from tests.fuzz.files.child import find_flaw
from tests.fuzz.files.formats import FORMATS
from tests.fuzz.files.run import KEPT, find_flaws

NUM_INPUTS = {
    "gguf": 400,
    "hugging-face": 400,
    "quantized": 400,
    "template": 150,
    "onnx": 400,
    "npz": 400,
    "npy": 600,
    "parquet": 400,
    "plan": 150,
    "cluster": 300,
    "faults": 200,
    "trace": 300,
}
"""Of each format; all together took a minute of processor time."""
NUM_PARTS = 8


def test_every_format_is_tried() -> None:
    assert set(NUM_INPUTS) == set(FORMATS)


@pytest.mark.timeout(600)
@pytest.mark.sample(every=NUM_PARTS)
@pytest.mark.parametrize("part", range(NUM_PARTS))
@pytest.mark.parametrize("name", FORMATS)
def test_only_clear_refusals_come_out(name: str, part: int, tmp_path: Path) -> None:
    first, last = (1 + NUM_INPUTS[name] * number // NUM_PARTS for number in (part, part + 1))
    flaws = list(find_flaws(name, first, last, tmp_path, deadline_s=500.0))
    assert not flaws, "\n".join(f"{name} {flaw.index}: {flaw.what}" for flaw in flaws)


@pytest.mark.parametrize("folder", sorted(KEPT.glob("*-*")), ids=lambda folder: folder.name)
def test_what_was_found_once(folder: Path) -> None:
    form = FORMATS[folder.name.rpartition("-")[0]]
    assert find_flaw(form, folder, folder / next(iter(form.good()))) is None
