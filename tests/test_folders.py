"""A folder is a room that one can look over: it has at most a dozen loose files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MOST = 12


def sizes() -> Iterator[tuple[str, int]]:
    """Loose Python files of every folder with code or tests."""
    for root in ("src/shoal", "tests"):
        for folder in (ROOT / root, *(path for path in (ROOT / root).rglob("*") if path.is_dir())):
            count = sum(1 for file in folder.glob("*.py") if file.name != "__init__.py")
            if count and folder.name != "__pycache__":
                yield folder.relative_to(ROOT).as_posix(), count


@pytest.mark.parametrize(("folder", "count"), list(sizes()))
def test_no_folder_is_a_heap(folder: str, count: int) -> None:
    assert count <= MOST, f"{folder} has {count} loose files: sort them into folders"
