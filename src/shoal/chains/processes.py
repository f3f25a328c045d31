"""Processes that run functions of chains. They are spawned, and do not run the script that loaded the chain."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.context import SpawnContext, SpawnProcess
from types import ModuleType

_no_script = threading.Lock()


class FunctionProcess(SpawnProcess):
    """A spawned process that does not run the user's script again.

    `multiprocessing` runs it so that the script's functions can be called. Functions of chains are in files of their
    own, and a script without `if __name__ == "__main__"` would load its models again in each process.
    """

    @staticmethod
    def _Popen(process_obj):  # the name that multiprocessing calls
        with _without_script():
            return SpawnProcess._Popen(process_obj)  # pyright: ignore[reportAttributeAccessIssue]


class FunctionContext(SpawnContext):
    """The multiprocessing context that makes FunctionProcesses."""

    Process = FunctionProcess


@contextmanager
def _without_script() -> Iterator[None]:
    """Hides the script from processes spawned in the block: `multiprocessing.spawn` looks for it in `sys.modules`."""
    with _no_script:
        script = sys.modules["__main__"]
        sys.modules["__main__"] = ModuleType("__main__")
        try:
            yield
        finally:
            sys.modules["__main__"] = script
