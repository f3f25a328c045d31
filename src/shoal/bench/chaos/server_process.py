"""The server under test: a child process, its workers, and what it says of itself."""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress

import httpx
import psutil

from shoal.errors import WorkerLost
from shoal.executor.process.child_process import module_command

MODEL_NAME = "model"
_START_TIMEOUT_S = 600.0
_END_TIMEOUT_S = 60.0
_ADDRESS = re.compile(r"^serving \S+ at (http://\S+?)(/v2)?$")
_KEPT_LINES = 200
_WORKER_MODULES = "shoal.worker"
_NOT_LIVING = (psutil.STATUS_ZOMBIE, psutil.STATUS_STOPPED, psutil.STATUS_DEAD)
_LAST_WORDS = 4


class ServerProcess:
    """`shoal serve` on a port of its own choice."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.url = ""
        self.lines: deque[str] = deque(maxlen=_KEPT_LINES)
        """the latest of what it has written"""
        self._process = process
        self._psutil = psutil.Process(process.pid)
        self._reader: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    @property
    def exit_status(self) -> int | None:
        """None while it runs."""
        return self._process.returncode

    @property
    def last_words(self) -> str:
        """What it wrote last."""
        return " | ".join(list(self.lines)[-_LAST_WORDS:])

    def workers(self) -> list[int]:
        """Process ids of the workers that live and are not stopped, in order.

        A process that the server has forked and that does not run the worker's program yet is still the server's own:
        stopping it would stop the server, which waits for it.
        """
        pids: list[int] = []
        with suppress(psutil.NoSuchProcess):
            for child in self._psutil.children():
                with suppress(psutil.NoSuchProcess):
                    is_worker = any(word.startswith(_WORKER_MODULES) for word in child.cmdline())
                    if is_worker and child.status() not in _NOT_LIVING:
                        pids.append(child.pid)
        return sorted(pids)

    async def metrics(self, client: httpx.AsyncClient) -> Mapping[str, float]:
        """Every sample of /metrics by its name, without labels. Raises httpx.HTTPError."""
        text = (await client.get(f"{self.url}/metrics")).text
        samples = (line.rpartition(" ") for line in text.splitlines() if line and not line.startswith("#"))
        return {name.partition("{")[0]: float(value) for name, _, value in samples}

    async def wait_until_started(self) -> None:
        """Until it takes requests. Raises WorkerLost with its last words if it ends first."""
        assert self._process.stderr is not None
        while not self.url:
            line = (await self._process.stderr.readline()).decode(errors="replace")
            if not line:
                raise WorkerLost(f"the server did not start: {self.last_words}")
            self.lines.append(line.strip())
            if found := _ADDRESS.match(line.strip()):
                self.url = found[1]
        self._reader = asyncio.create_task(self._read())

    async def end(self) -> int:
        """Ask it to end, and make it; its exit status."""
        if self._process.returncode is None:
            self._process.terminate()
        try:
            async with asyncio.timeout(_END_TIMEOUT_S):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
        status = await self._process.wait()
        if self._reader is not None:
            await self._reader
        return status

    async def _read(self) -> None:
        assert self._process.stderr is not None
        async for line in self._process.stderr:
            self.lines.append(line.decode(errors="replace").strip())


@asynccontextmanager
async def running_server(model: str, options: Sequence[str]) -> AsyncGenerator[ServerProcess, None]:
    """Serve a model while the block runs. Raises WorkerLost where it does not start."""
    arguments = ("serve", model, "--name", MODEL_NAME, "--port", "0", "--no-access-log", *options)
    process = await asyncio.create_subprocess_exec(
        *module_command("shoal.cli.main", *arguments), stderr=asyncio.subprocess.PIPE
    )
    server = ServerProcess(process)
    try:
        async with asyncio.timeout(_START_TIMEOUT_S):
            await server.wait_until_started()
        yield server
    finally:
        await server.end()
