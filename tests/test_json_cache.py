"""What is kept of measurements, and what is measured again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from shoal.json_cache import ProfileCache, profile_folder
from shoal.planner.speeds.speeds import Curve

KEY = {"machine": "m", "slots": [1, 2]}


@dataclass(frozen=True, kw_only=True)
class Measured:
    name: str
    curve: Curve


class Counting:
    """Measures something else every time."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self) -> Measured:
        self.times += 1
        return Measured(name=str(self.times), curve=Curve(rows=(1, 2), seconds=(0.5, 0.75)))


def never() -> Measured:
    raise AssertionError("measured although it is known")


def kept_file(folder: Path) -> Path:
    (path,) = folder.iterdir()
    return path


def test_what_was_measured_is_known_to_the_next_process(tmp_path):
    first = ProfileCache(tmp_path, Measured).get_or_measure(KEY, Counting())
    assert ProfileCache(tmp_path, Measured).get_or_measure(KEY, never) == first


def test_another_key_is_another_measurement(tmp_path):
    cache, measure = ProfileCache(tmp_path, Measured), Counting()
    cache.get_or_measure(KEY, measure)
    assert cache.get_or_measure({**KEY, "machine": "other"}, measure).name == "2"


def test_refresh_measures_and_keeps(tmp_path):
    cache, measure = ProfileCache(tmp_path, Measured), Counting()
    cache.get_or_measure(KEY, measure)
    assert cache.get_or_measure(KEY, measure, refresh=True).name == "2"
    assert cache.get_or_measure(KEY, never).name == "2"


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:40]),
        lambda path: path.write_bytes(b"\xff\xfe\x00"),
        lambda path: path.write_text(path.read_text().replace('"version": 2', '"version": 1')),
        lambda path: path.write_text(path.read_text().replace('"rows"', '"lines"')),
    ],
    ids=["empty", "cut off", "no text", "another version", "another form"],
)
def test_a_file_that_says_nothing_is_measured_anew(tmp_path: Path, spoil: Callable[[Path], object]):
    cache, measure = ProfileCache(tmp_path, Measured), Counting()
    cache.get_or_measure(KEY, measure)
    spoil(kept_file(tmp_path))
    assert cache.get_or_measure(KEY, measure).name == "2"
    assert cache.get_or_measure(KEY, never).name == "2"


def test_nothing_but_the_file_remains(tmp_path):
    ProfileCache(tmp_path, Measured).get_or_measure(KEY, Counting())
    assert kept_file(tmp_path).suffix == ".json"


def test_a_folder_that_cannot_be_written_to_keeps_nothing_and_breaks_nothing(tmp_path):
    (tmp_path / "file").write_text("")
    cache, measure = ProfileCache(tmp_path / "file" / "profiles", Measured), Counting()
    assert [cache.get_or_measure(KEY, measure).name for _ in range(2)] == ["1", "2"]


def test_an_error_of_measuring_is_not_kept(tmp_path):
    with pytest.raises(ZeroDivisionError):
        ProfileCache(tmp_path, Measured).get_or_measure(KEY, lambda: 1 / 0)
    assert not list(tmp_path.iterdir())


def test_the_folder_is_where_the_system_wants_caches(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert profile_folder() == tmp_path / "shoal" / "profiles"
