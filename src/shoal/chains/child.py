"""A process that runs the functions of chains."""

from __future__ import annotations

import importlib.util
import os
import pickle
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from inspect import signature
from pathlib import Path
from types import ModuleType
from typing import Any

from shoal.chains.value_size import size_of
from shoal.worker.process.parent import die_with_parent

_modules: dict[str, ModuleType] = {}
"""Loaded files by path; each process has its own."""
_is_main = False
"""Whether the main thread was the last that forked."""
_NO_VALUE = "it returned what no other process can read: return arrays, strings, numbers, lists and dictionaries"


class FunctionFailed(Exception):
    """A function raised an error, with a message that can be sent between processes. `is_input`: the request is to
    blame."""

    def __init__(self, message: str, is_input: bool) -> None:
        super().__init__(message, is_input)
        self.message = message
        self.is_input = is_input


def prepare() -> None:
    """Prepare the process: it ends with its parent, and leaves Ctrl+C to it."""
    die_with_parent()
    os.register_at_fork(before=_note_thread, after_in_child=_end_with_process)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _note_thread() -> None:
    """Note whether the main thread forks: Linux ends a child with the thread that forked it."""
    global _is_main
    _is_main = threading.current_thread() is threading.main_thread()


def _end_with_process() -> None:
    """What a function forks and forgets would keep the process's pipes open, and its end unseen."""
    if _is_main:
        die_with_parent()


def call(
    file: str, function: str, values: Mapping[str, Any], num_outputs: int, most_bytes: int | None = None
) -> tuple[bytes, int]:
    """Call a function of a file.

    Args:
        file: the path of the file.
        function: its name there.
        values: its arguments.
        num_outputs: of values that it must return.
        most_bytes: that these values may take; None: any number.

    Returns:
        Its values, one for each output, encoded for `values_of`, and the bytes that they take in memory.

    Raises:
        FunctionFailed: it raised an error, or returned something else.
    """
    process = os.getpid()
    try:
        return _called(file, function, values, num_outputs, sys.maxsize if most_bytes is None else most_bytes)
    finally:
        if os.getpid() != process:  # a copy that the function has forked: it would answer, and take calls, too
            os._exit(0)


def _called(
    file: str, function: str, values: Mapping[str, Any], num_outputs: int, most_bytes: int
) -> tuple[bytes, int]:
    try:
        result = getattr(_module(file), function)(**values)
    except ValueError as error:
        raise FunctionFailed(str(error), is_input=True) from None
    except BaseException as error:  # what ends a process or a task must not end anything in the one that asked
        raise FunctionFailed(f"{type(error).__name__}: {error}", is_input=False) from None
    outputs = result if isinstance(result, tuple) and num_outputs > 1 else (result,)
    if len(outputs) != num_outputs:
        raise FunctionFailed(
            f"it returned {len(outputs)} values, but the step has {num_outputs} outputs", is_input=False
        )
    num_bytes = size_of(outputs, most_bytes)
    if num_bytes > most_bytes:
        raise FunctionFailed(
            f"it returned values of more than {most_bytes >> 20} MiB: see `value_mib` in docs/chains.md", is_input=False
        )
    try:
        return pickle.dumps(outputs, pickle.HIGHEST_PROTOCOL), num_bytes
    except Exception as error:
        raise FunctionFailed(f"{_NO_VALUE} ({error})", is_input=False) from None


def fault_of(file: str, function: str, inputs: Sequence[str]) -> str | None:
    """What is wrong with a function that is to be called with values of these names; None: nothing can be told yet."""
    try:
        module = _module(file)
    except BaseException as error:
        return f"the file cannot be run: {type(error).__name__}: {error}"
    found = getattr(module, function, None)
    if not callable(found):
        near = get_close_matches(function, [name for name, value in vars(module).items() if callable(value)], n=1)
        return f"the file defines no function {function!r}" + (f"; did you mean {near[0]!r}?" if near else "")
    try:
        signature(found).bind(**dict.fromkeys(inputs))
    except TypeError as error:
        return f"{function!r} cannot be called with the step's inputs: {error}"
    except ValueError:  # written in C, of which Python knows no names
        return None
    return None


def values_of(returned: bytes) -> tuple[Any, ...]:
    """Decode what `call` returned, in another process, which does not know the function's file. Raises
    FunctionFailed."""
    try:
        return pickle.loads(returned)
    except (ImportError, AttributeError) as error:
        raise FunctionFailed(f"{_NO_VALUE} ({error})", is_input=False) from None


def _module(file: str) -> ModuleType:
    """The file as a module, loaded once; modules in its folder can be imported, as for a script."""
    if file not in _modules:
        path = Path(file)
        sys.path.insert(0, str(path.parent))
        name = f"shoal_chain_{len(_modules)}_{path.stem}"
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module  # dataclasses look up their annotations there
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
        _modules[file] = module
    return _modules[file]
