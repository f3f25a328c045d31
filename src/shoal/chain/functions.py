"""Python functions of chains, in processes of their own that are started again when they die."""

from __future__ import annotations

import asyncio
import multiprocessing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from shoal.chain import child
from shoal.chain.definition import FunctionStep
from shoal.errors import DeadlineExceeded, InvalidRequest, MissingExtra, RequestError, WorkerLost

MAX_TRIES = 3
"""Of a call whose process dies: a call that kills every process is the fault of what it was given."""


class FunctionPool:
    """Calls functions in a few processes. Belongs to one event loop."""

    def __init__(self, num_workers: int, timeout_s: float, *, max_tries: int = MAX_TRIES) -> None:
        """
        Args:
            num_workers: processes, >= 1; started with the first call.
            timeout_s: the most that one call may take, > 0; its process is killed then.
            max_tries: of a call whose process dies, >= 1.

        Raises:
            MissingExtra: pebble is not installed.
        """
        try:
            from pebble import ProcessPool
        except ModuleNotFoundError:
            raise MissingExtra("functions in chains need pebble", "chains") from None
        self._timeout_s = timeout_s
        self._max_tries = max_tries
        context = multiprocessing.get_context("spawn")
        self._pool = ProcessPool(max_workers=num_workers, context=context, initializer=child.prepare)

    async def call(self, step: FunctionStep, values: Mapping[str, Any]) -> tuple[Any, ...]:
        """A function's values, one for each of the step's outputs.

        Raises:
            InvalidRequest: it raised ValueError, which says that it was given what it cannot work with.
            DeadlineExceeded: it took too long.
            RequestError: it raised anything else, or its processes died under it.
            WorkerLost: the pool is closed.
        """
        for _ in range(self._max_tries):
            try:
                return await self._call(step.file, step.function, values, len(step.outputs))
            except child.FunctionFailed as failed:
                kind = InvalidRequest if failed.is_input else RequestError
                raise kind(f"step {step.name!r}: {failed.message}") from None
            except TimeoutError:
                message = f"step {step.name!r} took more than {self._timeout_s:g} s"
                raise DeadlineExceeded(message) from None
            except _Died:
                continue
        raise RequestError(f"step {step.name!r}: its process has died {self._max_tries} times in a row")

    def close(self) -> None:
        """Stop the processes. Calls that run end with WorkerLost. Idempotent."""
        self._pool.stop()
        self._pool.join()

    async def _call(self, file: Path, function: str, values: Mapping[str, Any], num_outputs: int) -> tuple[Any, ...]:
        from pebble import ProcessExpired

        arguments = (str(file), function, dict(values), num_outputs)
        try:
            future = self._pool.schedule(child.call, args=arguments, timeout=self._timeout_s)
        except RuntimeError as error:
            raise WorkerLost("the chain is closed") from error
        try:
            return await asyncio.wrap_future(future)
        except ProcessExpired as error:
            raise _Died from error


class _Died(Exception):
    """The process of a call ended under it."""
