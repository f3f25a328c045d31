"""Whether a model's files on two machines are the same: by size and SHA-256, computed once for each file."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from shoal.cluster.profile.cache import ProfileCache
from shoal.config import cache_root
from shoal.errors import ModelLoadError


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelIdentity:
    """A file, or every file of a directory."""

    files: tuple[tuple[str, int, str], ...]
    """relative path, size in bytes, SHA-256 in hex; sorted by path"""


def identify(path: Path) -> ModelIdentity:
    """A model's file or directory. Raises ModelLoadError where it cannot be read."""
    files = [path] if path.is_file() else sorted(one for one in path.rglob("*") if one.is_file())
    root = path.parent if path.is_file() else path
    try:
        return ModelIdentity(
            files=tuple((str(one.relative_to(root)), one.stat().st_size, _sha256(one)) for one in files)
        )
    except OSError as error:
        raise ModelLoadError(f"cannot read {path}: {error}") from error


def _sha256(path: Path) -> str:
    """As kept from the last time, if size and time of change are those of then. Raises OSError."""
    status = path.stat()
    key = {"path": str(path.resolve()), "bytes": status.st_size, "mtime_ns": status.st_mtime_ns}

    def compute() -> str:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    return ProfileCache(cache_root() / "identities", str).get_or_measure(key, compute)
