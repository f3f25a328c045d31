"""Kept weights stay within their bound, and those that were used longest ago go first."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from shoal.model.packed.room import SHARE_OF_FREE, make_room


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three models of two files with 100 bytes, used in the order of their names."""
    for model in range(3):
        (tmp_path / f"model-{model}").mkdir()
        for layer in range(2):
            path = tmp_path / f"model-{model}" / f"layer-{layer}.packed"
            path.write_bytes(bytes(100))
            path.with_suffix(".lock").touch()
            time_ns = 1 + 2 * model + layer
            os.utime(path, ns=(time_ns, time_ns))
    return tmp_path


def packed(root: Path) -> list[str]:
    return sorted(f"{path.parent.name}/{path.stem}" for path in root.glob("*/*.packed"))


def test_nothing_goes_while_there_is_room(root: Path) -> None:
    assert make_room(root, 100, keep=root / "new", max_bytes=700)
    assert len(packed(root)) == 6


def test_the_oldest_goes_first_with_its_lock_and_its_folder(root: Path) -> None:
    assert make_room(root, 100, keep=root / "new", max_bytes=400)
    assert packed(root) == ["model-1/layer-1", "model-2/layer-0", "model-2/layer-1"]
    assert not (root / "model-0").exists()
    assert not (root / "model-1" / "layer-0.lock").exists()
    assert (root / "model-1" / "layer-1.lock").exists()


def test_use_counts_not_age(root: Path) -> None:
    os.utime(root / "model-0" / "layer-0.packed")
    assert make_room(root, 100, keep=root / "new", max_bytes=600)
    assert "model-0/layer-0" in packed(root)
    assert "model-0/layer-1" not in packed(root)


def test_a_models_own_files_stay(root: Path) -> None:
    assert make_room(root, 100, keep=root / "model-0", max_bytes=300)
    assert packed(root) == ["model-0/layer-0", "model-0/layer-1"]


def test_without_room_nothing_is_removed(root: Path) -> None:
    assert not make_room(root, 101, keep=root / "model-0", max_bytes=300)
    assert len(packed(root)) == 6


def test_the_remains_of_killed_writers_count_and_go(root: Path) -> None:
    begun = root / "model-0" / "layer-9.new"
    begun.write_bytes(bytes(100))
    os.utime(begun, ns=(0, 0))
    assert make_room(root, 100, keep=root / "new", max_bytes=700)
    assert not begun.exists()
    assert len(packed(root)) == 6


def test_a_share_of_what_is_free_by_default(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(root)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage._replace(free=1000))
    limit = int(SHARE_OF_FREE * (1000 + 600))
    assert not make_room(root, limit + 1, keep=root / "new")
    assert make_room(root, limit - 100, keep=root / "new")
    assert packed(root) == ["model-2/layer-1"]


def test_what_a_link_leads_to_is_not_ours(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "letter.txt").write_bytes(bytes(100))
    os.utime(elsewhere / "letter.txt", ns=(0, 0))
    (root / "link").symlink_to(elsewhere)
    assert make_room(root, 100, keep=root / "new", max_bytes=200)
    assert packed(root) == ["model-2/layer-1"]
    assert (elsewhere / "letter.txt").exists()
