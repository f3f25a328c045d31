"""Measurements that are kept: a JSON file each, named by a digest of what it depends on.

A file that cannot be read, or is of another version, is as good as none. Files are written beside their place and moved
there, so that nobody reads half of one.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Generic, TypeVar

import msgspec

from shoal.config import cache_root

VERSION = 2
"""Of what is kept: raised when measurements get another meaning."""

KeptT = TypeVar("KeptT")


class ProfileCache(Generic[KeptT]):
    """Measurements of one type."""

    def __init__(self, folder: Path, kind: type[KeptT]) -> None:
        """Makes nothing yet.

        Args:
            folder: of the files.
            kind: a dataclass or struct of plain data.
        """
        self._folder = folder
        self._kind = kind

    def has(self, key: Mapping[str, object]) -> bool:
        """Whether something is kept under a key."""
        return self._read(self._folder / f"{_digest(key)}.json") is not None

    def get_or_measure(
        self, key: Mapping[str, object], measure: Callable[[], KeptT], *, refresh: bool = False
    ) -> KeptT:
        """What is kept under a key; what `measure` returns where there is nothing, or always with `refresh`."""
        path = self._folder / f"{_digest(key)}.json"
        kept = None if refresh else self._read(path)
        if kept is None:
            kept = measure()
            self._write(path, key, kept)
        return kept

    def _read(self, path: Path) -> KeptT | None:
        try:
            outer = msgspec.json.decode(path.read_bytes(), type=_Kept)
            return msgspec.convert(outer.value, self._kind) if outer.version == VERSION else None
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
            return None

    def _write(self, path: Path, key: Mapping[str, object], value: KeptT) -> None:
        """A folder that cannot be written to costs the next run its time, and this one nothing."""
        content = msgspec.json.format(msgspec.json.encode(_Kept(version=VERSION, key=dict(key), value=value)))
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            fd, partial = tempfile.mkstemp(dir=path.parent, prefix=path.stem, suffix=".partial")
            try:
                with os.fdopen(fd, "wb") as file:
                    file.write(content)
                Path(partial).replace(path)
            except OSError:
                Path(partial).unlink(missing_ok=True)
                raise


class _Kept(msgspec.Struct, frozen=True, kw_only=True):
    version: int
    key: dict[str, object]
    """for people who look into the file"""
    value: object


def profile_folder() -> Path:
    """Where measurements are kept. Source: XDG Base Directory Specification."""
    return cache_root() / "profiles"


def _digest(key: Mapping[str, object]) -> str:
    return hashlib.sha256(msgspec.json.encode(key, order="deterministic")).hexdigest()[:32]
