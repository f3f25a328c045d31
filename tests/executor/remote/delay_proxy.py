"""A link that takes its time: TCP connections through here arrive later, in order, at any rate."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress

from shoal.comm.tls.tls_link import Address
from shoal.executor.remote.host import Admit, LocalHost, StartedWorker

_READ_BYTES = 1 << 16


class DelayProxy:
    """Runs in a thread of its own until `close`."""

    def __init__(self, target: Address, delay_s: float) -> None:
        """`delay_s`: one way."""
        self._target, self._delay_s = target, delay_s
        self._loop = asyncio.new_event_loop()
        self._server = self._loop.run_until_complete(asyncio.start_server(self._accept, "127.0.0.1", 0))
        self.address: Address = self._server.sockets[0].getsockname()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._server.close()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0.01))
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            far_reader, far_writer = await asyncio.open_connection(*self._target)
            await asyncio.gather(self._carry(reader, far_writer), self._carry(far_reader, writer))

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Reads on while earlier bytes are on their way."""
        under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

        async def deliver() -> None:
            while True:
                due_s, data = await under_way.get()
                await asyncio.sleep(due_s - self._loop.time())
                if not data:
                    return
                writer.write(data)
                await writer.drain()

        delivering = asyncio.ensure_future(deliver())
        try:
            with suppress(OSError):
                data = b"begin"
                while data:
                    data = await reader.read(_READ_BYTES)
                    under_way.put_nowait((self._loop.time() + self._delay_s, data))
                await delivering
        finally:
            delivering.cancel()
            writer.close()


class FarHost(LocalHost):
    """This machine, as if it were far away: whoever reaches a worker of it does so through a proxy."""

    def __init__(self, delay_s: float) -> None:
        super().__init__("127.0.0.1")
        self._delay_s = delay_s
        self._proxies: list[DelayProxy] = []

    def start(
        self, admit: Admit, is_wanted: Callable[[], bool] = lambda: True, python: str | None = None
    ) -> StartedWorker:
        started = super().start(admit, is_wanted, python)
        self._proxies.append(DelayProxy(started.address, self._delay_s))
        return StartedWorker(pid=started.pid, address=self._proxies[-1].address)

    def close(self) -> None:
        super().close()
        for proxy in self._proxies:
            proxy.close()
