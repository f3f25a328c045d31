"""A server as a child process, its workers, and its output."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import cast

import httpx
import psutil

from shoal.errors import WorkerLost
from shoal.executor.process.child_process import module_command
from shoal.executor.process.living_workers import worker_processes
from shoal.server.switch.switchboard import ServerKilled

MODEL_NAME = "model"
_START_TIMEOUT_S = 600.0
_END_TIMEOUT_S = 60.0
_ADDRESS = re.compile(r"^serving .+ at (http://\S+?)(/v2)?$")
_READ_TIMEOUT_S = 5.0
"""Time for reading the rest of an ended server's output; a process that it has left behind may keep its stderr open."""
_KEPT_LINES = 200
_NOT_LIVING = (psutil.STATUS_ZOMBIE, psutil.STATUS_STOPPED, psutil.STATUS_DEAD)
_LAST_WORDS = 4
_COMPLAINT = "shoal:"
"""Beginning of the line in which the command says why it ends, see `cli.main`."""


class ServerProcess:
    """`shoal serve` on a port that it chooses itself."""

    def __init__(self, process: asyncio.subprocess.Process, on_line: Callable[[str], None] | None = None) -> None:
        """
        Args:
            process: the server, whose stderr is a pipe.
            on_line: called with every line that it writes after it has started; None: not called.
        """
        self.url = ""
        self.lines: deque[str] = deque(maxlen=_KEPT_LINES)
        """The latest lines that it has written."""
        self._process = process
        self._on_line = on_line
        self._psutil: psutil.Process | None = None
        """None: the process had ended at once."""
        with suppress(psutil.NoSuchProcess):
            self._psutil = psutil.Process(process.pid)
        self._reader: asyncio.Task[None] | None = None

    @classmethod
    async def start(
        cls, arguments: Sequence[str], *, api_key: str | None = None, on_line: Callable[[str], None] | None = None
    ) -> ServerProcess:
        """Start a server, which ends with this process, and wait until it accepts requests.

        Args:
            arguments: of `shoal serve`, without its address.
            api_key: that its clients must send; None: none.
            on_line: see `ServerProcess`.

        Raises:
            ServerKilled: the server was killed.
            WorkerLost: it cannot be started, has ended, or does not accept requests after ten minutes.
        """
        command = module_command("shoal.cli.main", "serve", *arguments, "--port", "0", "--end-with-parent")
        environment = {name: value for name, value in os.environ.items() if not name.startswith("SHOAL_SERVE_")}
        environment.pop("SHOAL_API_KEY", None)
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.PIPE,
                env=environment if api_key is None else {**environment, "SHOAL_API_KEY": api_key},
                start_new_session=True,
            )
        except OSError as error:
            raise WorkerLost(f"its server cannot be started: {error}") from error
        server = cls(process, on_line)
        try:
            async with asyncio.timeout(_START_TIMEOUT_S):
                await server.wait_until_started()
        except TimeoutError as error:
            await server.end()
            raise WorkerLost(f"it does not accept requests after {_START_TIMEOUT_S:.0f} s") from error
        except BaseException:
            await server.end()
            raise
        return server

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
        """The latest text that it wrote."""
        return _last_words(self.lines)

    def workers(self) -> list[int]:
        """Process ids of its workers that are alive and not stopped, in order."""
        pids: list[int] = []
        for worker in worker_processes(self._psutil) if self._psutil is not None else ():
            with suppress(psutil.NoSuchProcess):
                if worker.status() not in _NOT_LIVING:
                    pids.append(worker.pid)
        return pids

    async def metrics(self, client: httpx.AsyncClient) -> Mapping[str, float]:
        """Every sample of /metrics by its name, without labels. Raises httpx.HTTPError."""
        text = (await client.get(f"{self.url}/metrics")).text
        samples = (line.rpartition(" ") for line in text.splitlines() if line and not line.startswith("#"))
        return {name.partition("{")[0]: float(value) for name, _, value in samples}

    async def wait_until_started(self) -> None:
        """Wait until the server accepts requests. Raises WorkerLost, as `start`, with the reason if it ends first."""
        while not self.url:
            line = await self._line()
            if line is None:
                raise ended_early(await self._process.wait(), self.lines)
            if found := _ADDRESS.match(_message_of(line.strip())):
                self.url = found[1]
        self._reader = asyncio.create_task(self._read())

    async def wait(self) -> int:
        """Wait until the server has ended. Returns its exit status."""
        return await self._process.wait()

    async def end(self) -> int:
        """Ask the server to end, and kill it if it does not. Returns its exit status."""
        with suppress(ProcessLookupError):
            if self._process.returncode is None:
                self._process.terminate()
        try:
            async with asyncio.timeout(_END_TIMEOUT_S):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
        status = await self._process.wait()
        if self._reader is not None:
            await asyncio.wait({self._reader}, timeout=_READ_TIMEOUT_S)
            self._reader.cancel()
        return status

    async def _read(self) -> None:
        while (line := await self._line()) is not None:
            if self._on_line is not None:
                self._on_line(line)

    async def _line(self) -> str | None:
        """The next line that the server writes, which is stored; None: it has closed its stderr."""
        assert self._process.stderr is not None
        while True:
            try:
                line = await self._process.stderr.readline()
            except ValueError:  # longer than asyncio stores; a server whose output nobody reads would block
                continue
            if not line:
                return None
            text = line.decode(errors="replace").rstrip("\n")
            self.lines.append(text.strip())
            return text


def ended_early(status: int, lines: Sequence[str]) -> WorkerLost:
    """The error for a server that has ended before it accepted requests: what killed it, or its own message.

    Args:
        status: exit status; below 0: the signal that killed it.
        lines: its latest output.
    """
    if status == -signal.SIGKILL:
        return ServerKilled("its server was killed while it loaded the model: most likely memory did not suffice")
    if status < 0:
        return ServerKilled(f"its server was ended by {signal.Signals(-status).name} while it loaded the model")
    complaint = next((line for line in reversed(lines) if line.startswith(_COMPLAINT)), None)
    if complaint is not None:
        return WorkerLost(complaint.removeprefix(_COMPLAINT).strip())
    return WorkerLost(f"its server ended with status {status} before it took requests: {_last_words(lines)}")


def _last_words(lines: Sequence[str]) -> str:
    return " | ".join(list(lines)[-_LAST_WORDS:])


def _message_of(line: str) -> str:
    """The message in a line of the log, which is an object with `--log-json`."""
    try:
        told = json.loads(line)
    except ValueError:
        return line
    return str(cast(dict[str, object], told).get("message")) if isinstance(told, dict) else line


@asynccontextmanager
async def running_server(model: str, options: Sequence[str]) -> AsyncGenerator[ServerProcess, None]:
    """Serve a model while the block runs. Raises WorkerLost if it does not start."""
    server = await ServerProcess.start([model, "--name", MODEL_NAME, "--no-access-log", *options])
    try:
        yield server
    finally:
        await server.end()
