"""Fingerprints, which tell whether a file has changed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

from shoal.errors import ConfigError

_WHOLE_BYTES = 64 << 20
"""Files up to this size are read completely, in about 0.1 s; reading an input of many GB twice would take too long."""
_NUM_SAMPLES = 64
_SAMPLE_BYTES = 64 << 10


def fingerprint(paths: Iterable[Path]) -> str:
    """A hash of the contents of files, in this order.

    For a large file, size, time of the latest change and evenly spaced samples of the content are used.

    Raises:
        ConfigError: a file cannot be read.
    """
    digest = hashlib.blake2b(digest_size=16)
    for path in paths:
        try:
            _add(digest, path)
        except OSError as error:
            raise ConfigError(f"{path} cannot be read: {error.strerror or error}") from None
    return digest.hexdigest()


def _add(digest: hashlib.blake2b, path: Path) -> None:
    with path.open("rb") as file:
        status = os.fstat(file.fileno())
        digest.update(f"{status.st_size}\n".encode())
        if status.st_size <= _WHOLE_BYTES:
            digest.update(file.read())
            return
        digest.update(f"{status.st_mtime_ns}\n".encode())
        step = (status.st_size - _SAMPLE_BYTES) / (_NUM_SAMPLES - 1)
        for sample in range(_NUM_SAMPLES):
            file.seek(round(sample * step))
            digest.update(file.read(_SAMPLE_BYTES))
