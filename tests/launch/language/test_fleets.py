"""Which divisions of this machine are measured."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from shoal.launch.language import fleets
from shoal.launch.language.fleets import local_fleets
from shoal.measure.slots import Slot
from shoal.planner.speeds.speeds import Fleet
from tests.model.tiny_models import make_tiny_gguf
from tests.planner.example_speeds import example_fleet


def measured_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_rough: bool, known: tuple[int, ...] = ()
) -> list[int]:
    """Numbers of workers that eight cores are measured as, where some numbers are known already."""
    counts: list[int] = []

    def measure(path: Path, precisions: Sequence[str], slots: Sequence[Slot], **options: object) -> Fleet:
        assert options["is_rough"] == is_rough
        counts.append(len(slots))
        return example_fleet()

    monkeypatch.setattr(fleets.os, "sched_getaffinity", lambda pid: set(range(8)))
    monkeypatch.setattr(fleets, "measure_fleet", measure)
    monkeypatch.setattr(fleets, "is_measured", lambda path, precisions, slots, **options: len(slots) in known)
    path = make_tiny_gguf(tmp_path)
    local_fleets(path, ["auto"], threads=None, refresh=False, is_rough=is_rough, on_progress=lambda what: None)
    return counts


def test_all_divisions_are_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert measured_counts(tmp_path, monkeypatch, is_rough=False) == [1, 2, 4, 8]


def test_in_a_hurry_only_two_and_those_that_are_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert measured_counts(tmp_path, monkeypatch, is_rough=True) == [1, 2]
    assert measured_counts(tmp_path, monkeypatch, is_rough=True, known=(2, 8)) == [1, 2, 8]
