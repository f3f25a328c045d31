"""Runs Python functions of chains in separate processes, which are started again when they die."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterable, Mapping
from concurrent.futures.process import BrokenProcessPool
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shoal.chains import child
from shoal.chains.processes import FunctionContext
from shoal.chains.steps import FunctionStep
from shoal.errors import ConfigError, DeadlineExceeded, InvalidRequest, MissingExtra, RequestError, WorkerLost

if TYPE_CHECKING:
    from pebble import ProcessPool

MAX_TRIES = 3
"""Tries of a call whose process dies: if a call kills every process, its input is to blame."""
_LARGE_BYTES = 1 << 20
"""Values from this size on are decoded in a thread."""
_RUN_TIMEOUT_S = 60.0
"""Time limit for running a file of functions once, which may import a lot. A judgment."""


def require_pool() -> None:
    """For those who would load models first. Raises MissingExtra if functions of chains cannot be run here."""
    if find_spec("pebble") is None:
        raise MissingExtra("functions in chains need pebble", "chains")


class FunctionPool:
    """Calls functions in a few processes. Belongs to one event loop."""

    def __init__(
        self, num_workers: int, timeout_s: float, *, max_tries: int = MAX_TRIES, most_bytes: int | None = None
    ) -> None:
        """
        Args:
            num_workers: processes, >= 1; started with the first call, or `check`.
            timeout_s: time limit for one call, > 0; its process is killed then.
            max_tries: of a call whose process dies, >= 1.
            most_bytes: that the values of one call may take; None: any number.

        Raises:
            MissingExtra: pebble is not installed.
        """
        self._num_workers = num_workers
        self._timeout_s = timeout_s
        self._max_tries = max_tries
        self._most_bytes = most_bytes
        self._is_closed = False
        self._pool = self._new_pool()

    def check(self, steps: Iterable[FunctionStep]) -> None:
        """Have a process run the files of functions, and see whether they can be called as the steps say.

        Blocks until that is done.

        Raises:
            ConfigError: a file cannot be run, or not in time, or one of its functions cannot be called so.
        """
        limit_s = max(self._timeout_s, _RUN_TIMEOUT_S)
        for step in steps:
            arguments = (str(step.file), step.function, step.inputs)
            try:
                fault = self._pool.schedule(child.fault_of, args=arguments, timeout=limit_s).result(
                    limit_s + _RUN_TIMEOUT_S
                )
            except TimeoutError:
                fault = f"the file has not been run within {limit_s:g} s"
            except _process_ended() as error:
                fault = f"the process that runs the file has ended: {error}"
            if fault is not None:
                raise ConfigError(f"step {step.name!r}: {step.file}: {fault}")

    async def call(self, step: FunctionStep, values: Mapping[str, Any]) -> tuple[tuple[Any, ...], int]:
        """A function's values, one for each of the step's outputs, and the bytes that they take.

        Raises:
            InvalidRequest: the function raised ValueError, which means that its input is invalid.
            DeadlineExceeded: the function took too long.
            RequestError: the function raised anything else, or its processes died.
            WorkerLost: the pool is closed.
        """
        died: _Died | None = None
        for _ in range(self._max_tries):
            try:
                return await self._call(step.file, step.function, values, len(step.outputs))
            except child.FunctionFailed as failed:
                kind = InvalidRequest if failed.is_input else RequestError
                raise kind(f"step {step.name!r}: {failed.message}") from None
            except TimeoutError:
                message = f"step {step.name!r} took more than {self._timeout_s:g} s"
                raise DeadlineExceeded(message) from None
            except _Died as error:
                died = error
        assert died is not None
        raise RequestError(f"step {step.name!r}: its process has died {self._max_tries} times in a row{died}")

    def close(self) -> None:
        """Stop the processes. Running calls end with WorkerLost. Idempotent."""
        self._is_closed = True
        self._pool.stop()
        self._pool.join()

    def _new_pool(self) -> ProcessPool:
        """Raises MissingExtra."""
        require_pool()
        from pebble import ProcessPool

        return ProcessPool(max_workers=self._num_workers, context=FunctionContext(), initializer=child.prepare)

    def _replace(self, broken: ProcessPool) -> None:
        """Replace a pool, which breaks permanently when idle processes of it die. Raises WorkerLost if it is closed
        rather than broken."""
        if self._is_closed:
            raise WorkerLost("the chain is closed")
        if self._pool is broken:
            broken.stop()
            broken.join()
            self._pool = self._new_pool()

    async def _call(
        self, file: Path, function: str, values: Mapping[str, Any], num_outputs: int
    ) -> tuple[tuple[Any, ...], int]:
        pool, arguments = self._pool, (str(file), function, dict(values), num_outputs, self._most_bytes)
        try:
            future = pool.schedule(child.call, args=arguments, timeout=self._timeout_s)
        except RuntimeError as error:
            self._replace(pool)
            raise _Died("") from error
        try:
            content, num_bytes = await asyncio.wrap_future(future)
            if len(content) > _LARGE_BYTES:
                return await asyncio.to_thread(child.values_of, content), num_bytes
            return child.values_of(content), num_bytes
        except _process_ended() as error:
            if isinstance(error, BrokenProcessPool):
                self._replace(pool)
            raise _Died(_how(error)) from error


def _how(error: Exception) -> str:
    """The signal that has ended a process, if one did; as the end of a sentence."""
    exit_code = getattr(error, "exitcode", None)
    if not isinstance(exit_code, int) or exit_code >= 0:
        return ""
    hint = ", as when memory runs out" if -exit_code == signal.SIGKILL else ""
    return f", by signal {-exit_code}{hint}"


def _process_ended() -> tuple[type[Exception], ...]:
    """What a call raises if its process ends during the call."""
    from pebble import ProcessExpired

    return ProcessExpired, BrokenProcessPool


class _Died(Exception):
    """The process of a call ended during the call. Its text is the end of a sentence."""
