"""Output files: errors that name them, and atomic writing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from shoal.errors import CapacityError, ConfigError


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Turn system errors of writing a file into a CapacityError that names it."""
    try:
        yield
    except OSError as error:
        raise CapacityError(f"cannot write {path}: {error.strerror or error}") from error


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Write a new file that gets its name when the block succeeds, and is removed if it fails. Raises CapacityError.

    A device or a pipe, such as `/dev/stdout`, is written to as it is.
    """
    if path.exists() and not path.is_file():
        with naming(path), path.open("wb") as file:
            yield file
        return
    partial = path.with_name(f"{path.name}.part")
    with naming(path):
        try:
            with partial.open("wb") as file:
                yield file
            os.replace(partial, path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise


def sync_file(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on disk. Raises CapacityError."""
    with naming(path):
        fd = os.open(path, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def prepare_folder(path: Path) -> None:
    """Make an output folder and check that files can be written there.

    Raises:
        ConfigError: no files can be written there.
    """
    probe = path / ".shoal-probe"
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"shoal")
        probe.unlink()
    except OSError as error:
        probe_reason = error.strerror or str(error)
        raise ConfigError(f"-o {path}: cannot be written: {probe_reason}; give a folder where you may write") from None
