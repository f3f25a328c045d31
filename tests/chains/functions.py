"""Functions of the chains in tests."""

from __future__ import annotations

import os
import signal
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass
class Box:
    """What only this file knows."""

    left: int


def width(x: int) -> int:
    """Of a box of its own."""
    return 2 * Box(x).left


def box(word: str) -> Box:
    """Cannot be read elsewhere."""
    return Box(len(word))


def unnamed(word: str) -> Any:
    """Cannot be written."""
    return lambda: word


def leave(word: str) -> None:
    """As scripts end."""
    sys.exit(word)


def interrupt(word: str) -> None:
    """As Ctrl+C does."""
    raise KeyboardInterrupt(word)


def half(x: Any) -> Any:
    """Half of it."""
    return x / 2


def words(text: str) -> tuple[list[str], int]:
    """The words, and how many there are."""
    found = text.split()
    return found, len(found)


def loud(word: str) -> str:
    """In capitals; an empty word cannot be said."""
    if word == "silence":
        raise ValueError("silence cannot be loud")
    return word.upper()


def own_pid() -> int:
    """Of the process that computes it."""
    return os.getpid()


def wrong(x: Any) -> Any:
    """A mistake of whoever wrote it."""
    return x.nothing


def hang(x: Any) -> Any:
    """Never ends."""
    threading.Event().wait()


def die(marks: str) -> str:
    """Ends its process, but for the third time; `marks`: a folder that counts."""
    count = len(list(Path(marks).iterdir()))
    (Path(marks) / str(count)).touch()
    if count < 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return "alive"


def process(x: Any) -> int:
    """Where it runs."""
    return os.getpid()


def forked(x: Any) -> tuple[int, bool]:
    """The process that calls it, and whether a copy of it that returns, too, has ended quietly."""
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        if x == "raise":
            raise ValueError("from the copy")
        return 0, False
    return parent, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def forgotten(x: Any) -> None:
    """Forks a copy that never ends, and dies."""
    if os.fork() == 0:
        threading.Event().wait()
    os.kill(os.getpid(), signal.SIGKILL)


def many(count: int) -> list[int]:
    """So many numbers."""
    return list(range(count))
