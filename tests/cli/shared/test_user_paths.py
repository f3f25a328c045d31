"""Where a user's files are, also of users without a home."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest

from shoal.config import cache_root, user_path


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody knows the user's home, as in a container that runs as a number."""

    def nobody(_: int) -> None:
        raise KeyError("uid not found")

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", nobody)


@pytest.mark.usefixtures("homeless")
def test_without_a_home_nothing_can_be_kept() -> None:
    with pytest.raises(OSError, match="Not a directory"):
        cache_root().mkdir(parents=True)


@pytest.mark.usefixtures("homeless")
@pytest.mark.parametrize("name", ["~/model.gguf", "~nobody-of-this-name/model.gguf"])
def test_a_home_that_nobody_knows_is_no_error(name: str) -> None:
    assert user_path(name) == Path(name)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("", "/home/a/.cache/shoal"),
        ("/big", "/big/shoal"),
        ("~/big", "/home/a/big/shoal"),
        ("big", "/home/a/.cache/shoal"),
    ],
)
def test_relative_paths_are_ignored(given: str, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Source: XDG Base Directory Specification."""
    monkeypatch.setenv("HOME", "/home/a")
    monkeypatch.setenv("XDG_CACHE_HOME", given)
    assert os.fspath(cache_root()) == expected
