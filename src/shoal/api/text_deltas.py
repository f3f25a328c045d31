"""An answer as an iterator of its text."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from types import TracebackType

from shoal.api.call import Call
from shoal.api.outputs import RequestOutput
from shoal.api.work.loop_thread import LoopThread


class TextDeltas(Iterator[str]):
    """The text of one answer as it comes. Whoever leaves it early cancels what is left of it: by `close`, at the end of
    a `with` block, or by dropping it."""

    def __init__(self, thread: LoopThread, call: Call, owner: object) -> None:
        """Start the call. `owner`, the model, lives as long as this. Raises as `LLM.stream`."""
        self._owner = owner
        self._thread = thread
        self._call = call
        self._deltas = call.deltas()
        thread.run(call.start())

    @property
    def output(self) -> RequestOutput:
        """All of the answer that has been read; complete once the iteration has ended."""
        return self._call.output()

    def __next__(self) -> str:
        delta = self._thread.run(_next(self._deltas))
        if delta is None:
            raise StopIteration
        return delta

    def close(self) -> None:
        """Compute nothing more of it. Idempotent."""
        self._thread.drop(self._deltas.aclose())

    def __enter__(self) -> TextDeltas:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if not self._thread.is_closed:
            self.close()


class AsyncTextDeltas(AsyncIterator[str]):
    """The same for `async for`. The call starts with the first text that is asked for."""

    def __init__(self, thread: LoopThread, call: Call, owner: object) -> None:
        """`owner`, the model, lives as long as this."""
        self._owner = owner
        self._thread = thread
        self._call = call
        self._deltas = call.deltas()
        self._is_started = False

    @property
    def output(self) -> RequestOutput:
        """All of the answer that has been read; complete once the iteration has ended."""
        return self._call.output()

    async def __anext__(self) -> str:
        if not self._is_started:
            self._is_started = True
            await self._thread.arun(self._call.start())
        delta = await self._thread.arun(_next(self._deltas))
        if delta is None:
            raise StopAsyncIteration
        return delta

    async def aclose(self) -> None:
        """Compute nothing more of it. Idempotent."""
        self._thread.drop(self._deltas.aclose())

    async def __aenter__(self) -> AsyncTextDeltas:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def __del__(self) -> None:
        if not self._thread.is_closed:
            self._thread.drop(self._deltas.aclose())


async def _next(deltas: AsyncIterator[str]) -> str | None:
    """The next text; None after the last."""
    return await anext(deltas, None)
