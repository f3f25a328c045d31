"""Packed weights in the user's cache: packed once, then mapped by every worker and at every later start.

The cache is an optimization. If anything goes wrong with it (no home, a full disk, a damaged file), starting takes
longer, but no request fails.
"""

from __future__ import annotations

import hashlib
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from shoal.arrays import U8
from shoal.config import cache_root
from shoal.errors import ModelLoadError
from shoal.model.file_states import change_times, model_states
from shoal.model.packed.kept_file import VERSION, KeptFormat, kept_format, read_kept, write_kept
from shoal.model.packed.memory import own_memory
from shoal.model.packed.pack import Arrangement
from shoal.model.packed.room import make_room
from shoal.model.weights import Precision
from shoal.protocol.language_messages import LoadStage
from shoal.protocol.worker_messages import FileState

if TYPE_CHECKING:
    from shoal._native import ThreadPool

_LOCK_WAIT_S = 5.0
"""How long a process waits while another packs the same matrices. Source: half of `RecoveryConfig.load_timeout_s`, so
that a worker behind a process that hangs, or was stopped, has packed them itself before it counts as lost."""
_LOCK_POLL_S = 0.005
_log = logging.getLogger(__name__)


class KeptWeights:
    """The kept files of one model at one precision. After a failure to write one, no more are written."""

    def __init__(
        self,
        root: Path,
        look: Callable[[], tuple[FileState, ...]],
        precision: Precision,
        *,
        states: Sequence[FileState] = (),
        look_at_times: Callable[[], tuple[int, ...]] = tuple,
        max_bytes: int | None = None,
    ) -> None:
        """
        Args:
            root: the folder that has a folder for every model.
            look: takes the states of the model's files: weights of a file that changed while they were packed are not
                kept.
            precision: that the matrices are asked for at.
            states: those that the model was opened with; none: those of now.
            look_at_times: takes the times of the files' latest change, which nobody can set back: what was packed from
                a file that was edited in place and given its old time of modification is made again.
            max_bytes: that the files of all models may take; None: a share of what is free.

        Raises:
            ModelLoadError: the model's files cannot be read.
        """
        self._root, self._look, self._look_at_times, self._max_bytes = root, look, look_at_times, max_bytes
        self._states, self._times_ns = tuple(states) or look(), look_at_times()
        identity = (VERSION, sys.byteorder, precision, self._states)
        self._model = hashlib.sha256(msgspec.json.encode(identity)).hexdigest()[:32]
        self._writes = True

    @property
    def folder(self) -> Path:
        """Folder of this model's files. Other model files, precisions and formats have other folders."""
        return self._root / self._model

    def weights(self, unit: str, arrangement: Arrangement, pack: Callable[[U8], None], pool: ThreadPool) -> U8:
        """Weights of some matrices: mapped from the kept file, or packed now and then kept if possible.

        If several processes ask at once, one packs and the others wait for it, though not for long.

        Args:
            unit: names these matrices and their part within the model; a file name without a suffix.
            arrangement: where they lie.
            pack: writes them into memory of this size.
            pool: computes the checksum.
        """
        if arrangement.num_bytes == 0:
            return own_memory(0)
        kept = kept_format(arrangement, {"model": self._model, "changed_ns": self._times_ns, "unit": unit})
        path = self.folder / f"{unit}.packed"
        weights = read_kept(path, kept, pool)
        if weights is not None:
            return weights
        with self._alone(path) as is_alone:
            weights = read_kept(path, kept, pool) if is_alone else None
            return self._make(path, kept, pack, pool, keeps=is_alone) if weights is None else weights

    def _make(self, path: Path, kept: KeptFormat, pack: Callable[[U8], None], pool: ThreadPool, *, keeps: bool) -> U8:
        memory = own_memory(kept.weight_bytes)
        pack(memory)
        if not keeps or not self._is_unchanged():
            return memory
        try:
            if make_room(self._root, kept.num_bytes, keep=path.parent, max_bytes=self._max_bytes):
                return write_kept(path, kept, memory, pool)
            self._give_up(f"there is no room for {path}")
        except (OSError, ValueError) as error:
            self._give_up(error)
        return memory

    @contextmanager
    def _alone(self, path: Path) -> Iterator[bool]:
        """Yields whether this process alone may write the file. Waits for other processes, unless nothing can be
        written or one of them takes too long."""
        lock = None
        try:
            lock = _take_lock(path.with_suffix(".lock")) if self._writes else None
        except (OSError, ImportError) as error:
            self._give_up(error)
        try:
            yield lock is not None
        finally:
            if lock is not None:
                os.close(lock)

    def _give_up(self, why: object) -> None:
        self._writes = False
        _log.debug("packed weights are not kept: %s", why)

    def _is_unchanged(self) -> bool:
        try:
            return self._look() == self._states and self._look_at_times() == self._times_ns
        except ModelLoadError:
            return False


def kept_for(load: LoadStage) -> KeptWeights | None:
    """The cache for the weights of the stage that a worker loads; None: it keeps none.

    Raises:
        ModelLoadError: the model's files cannot be read.
    """
    if not load.keep_weights or any(adapter.is_merged for adapter in load.adapters):
        return None
    path = Path(load.model_path)
    return KeptWeights(
        cache_root() / "weights",
        lambda: model_states(path),
        load.stage.precision,
        states=load.files,
        look_at_times=lambda: change_times(path),
    )


def _take_lock(path: Path) -> int | None:
    """A descriptor that holds the lock until it is closed or its process ends; None if another process has held the
    lock for _LOCK_WAIT_S."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        if _locks(fd):
            return fd
    except OSError:
        os.close(fd)
        raise
    os.close(fd)
    return None


def _locks(fd: int) -> bool:
    import fcntl

    end_s = time.monotonic() + _LOCK_WAIT_S
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= end_s:
                return False
            time.sleep(_LOCK_POLL_S)
        else:
            return True
