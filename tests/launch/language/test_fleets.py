"""Which divisions of this machine are measured."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from shoal.launch.language import fleets
from shoal.launch.language.fleets import local_fleets
from shoal.measure.measuring import Measuring
from shoal.measure.slots import Slot
from shoal.model.on_disk import ModelOnDisk
from shoal.planner.speeds.speeds import Fleet
from tests.model.tiny_models import make_tiny_gguf
from tests.planner.example_speeds import example_fleet


def measured_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_rough: bool, known: tuple[int, ...] = ()
) -> list[int]:
    """Numbers of workers that eight cores are measured as, where some numbers are known already."""
    counts: list[int] = []

    def measure(model: ModelOnDisk, precisions: Sequence[str], slots: Sequence[Slot], measuring: Measuring) -> Fleet:
        assert measuring.is_rough == is_rough
        counts.append(len(slots))
        return example_fleet()

    monkeypatch.setattr(fleets.os, "sched_getaffinity", lambda pid: set(range(8)))
    monkeypatch.setattr(fleets, "measure_fleet", measure)
    monkeypatch.setattr(fleets, "is_measured", lambda model, precisions, slots: len(slots) in known)
    local_fleets(ModelOnDisk(make_tiny_gguf(tmp_path)), ["auto"], Measuring(is_rough=is_rough))
    return counts


def test_all_divisions_are_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert measured_counts(tmp_path, monkeypatch, is_rough=False) == [1, 2, 4, 8]


def test_in_a_hurry_only_two_and_those_that_are_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert measured_counts(tmp_path, monkeypatch, is_rough=True) == [1, 2]
    assert measured_counts(tmp_path, monkeypatch, is_rough=True, known=(2, 8)) == [1, 2, 8]
