"""Comparing a model's files on two machines by size and SHA-256, which is computed once for each state of a file.

On one machine the state is enough (model/file_states); between machines it means nothing.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path

from msgspec import to_builtins

from shoal.config import cache_root
from shoal.errors import ModelLoadError
from shoal.executor.remote.model_parts import files_of
from shoal.json_cache import ProfileCache
from shoal.model.file_states import state_of
from shoal.protocol.worker_messages import FileState


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelIdentity:
    """The content of a model's files."""

    files: tuple[tuple[str, int, str], ...]
    """Relative path, size in bytes and SHA-256 in hex of each file, sorted by path."""


def identify(path: Path) -> ModelIdentity:
    """The identity of a model's file or directory. Raises ModelLoadError if it cannot be read."""
    try:
        return ModelIdentity(files=tuple(_identify_file(name, file) for name, file in sorted(files_of(path).items())))
    except OSError as error:
        raise ModelLoadError(f"cannot read {path}: {error}") from error


def _identify_file(name: str, path: Path) -> tuple[str, int, str]:
    with path.open("rb") as file:
        state = state_of(file, path.name)
        return name, state.num_bytes, _sha256(path, file, state)


def _sha256(path: Path, file: BufferedReader, state: FileState) -> str:
    """The file's SHA-256, kept from the last time if the file's state is the same. Raises OSError."""
    key = {"path": str(path.resolve()), "state": to_builtins(state)}

    def compute() -> str:
        return hashlib.file_digest(file, "sha256").hexdigest()

    return ProfileCache(cache_root() / "identities", str).get_or_measure(key, compute)
