"""Ends runs at a deadline, since a graph may contain an endless loop.

Between two nodes, inside loops as well, ONNX Runtime checks whether its run should end. So a thread that checks the
clock from time to time suffices, but a single node that computes for hours is not stopped.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field

import onnxruntime as ort

from shoal.errors import DeadlineExceeded

_LOOK_S = 0.5
"""Time between two checks of the clock."""
_FATAL_ONLY = 4
"""Log severity of a run, whose default is not that of its session."""


@dataclass(slots=True)
class _Watched:
    """The run that a thread watches. Mutable."""

    is_over: threading.Event = field(default_factory=threading.Event)
    run: tuple[ort.RunOptions, float] | None = None
    """The run's options and its deadline."""


class RunLimit:
    """Limits the runs of one session, one at a time."""

    def __init__(self) -> None:
        """The thread starts with the first run that has a limit."""
        self._watched = _Watched()
        self._thread: threading.Thread | None = None
        weakref.finalize(self, self._watched.is_over.set)

    @contextmanager
    def run(self, limit_s: float | None) -> Generator[ort.RunOptions]:
        """Options for a run that ends soon after `limit_s`; None: it has no limit.

        Raises:
            DeadlineExceeded: the run was ended.
        """
        options = ort.RunOptions()
        options.log_severity_level = _FATAL_ONLY
        if limit_s is not None:
            self._watched.run = options, time.monotonic() + limit_s
            self._start()
        try:
            yield options
        except Exception as error:
            if options.terminate:
                raise DeadlineExceeded(f"it was not done after {limit_s:g} s") from error
            raise
        finally:
            self._watched.run = None

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=_watch, args=(self._watched,), name="shoal-run-limit", daemon=True)
            self._thread.start()


def _watch(watched: _Watched) -> None:
    while not watched.is_over.wait(_LOOK_S):
        run = watched.run
        if run is not None and time.monotonic() >= run[1]:
            run[0].terminate = True
