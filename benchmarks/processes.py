"""Start servers and tools under measurement, and end them for certain."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

SHOAL = (sys.executable, "-m", "shoal.cli.main")
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # a source tree keeps its bytecode as installed packages have theirs
_READY_TIMEOUT_S = 600.0
_RUN_TIMEOUT_S = 600.0
_NUM_LAST_LINES = 3


class Failed(SystemExit):
    """What was to be measured did not work. A script that does not expect it ends with the message."""


def shoal_json(*arguments: str, cores: Sequence[int] | None = None) -> dict[str, Any]:
    """What `shoal ... --json` prints. `cores` restricts the process to some CPUs."""
    with start_shoal_json(*arguments, cores=cores) as process:
        return finish_json(process)


def start_shoal_json(*arguments: str, cores: Sequence[int] | None = None) -> subprocess.Popen[str]:
    """The same, started and not waited for."""
    pin = () if cores is None else ("taskset", "-c", ",".join(map(str, cores)))
    return subprocess.Popen([*pin, *SHOAL, *arguments, "--json"], stdout=subprocess.PIPE, text=True)


def finish_json(process: subprocess.Popen[str]) -> dict[str, Any]:
    """Wait for a started command and parse its one object."""
    output, _ = process.communicate(timeout=_RUN_TIMEOUT_S)
    if process.returncode:
        raise Failed(f"{process.args} ended with status {process.returncode}")
    return json.loads(output)


@contextmanager
def running(
    command: Sequence[str],
    *,
    health_url: str | None = None,
    log: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server while the block runs; waits until `health_url` answers 200. `env`: in place of this process's."""
    with log.open("w+b") if log else tempfile.TemporaryFile() as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=env, start_new_session=True)
        try:
            if health_url:
                _wait_until_healthy(process, health_url, out)
            yield process
        finally:
            _end_session(process)


def _end_session(leader: subprocess.Popen[bytes]) -> None:
    """End a process and all that it has started, also where it leaves them behind as it ends."""
    leader.terminate()
    with suppress(subprocess.TimeoutExpired):
        leader.wait(30)
    with suppress(ProcessLookupError):
        os.killpg(leader.pid, signal.SIGKILL)
    leader.wait()


def last_words(log: IO[bytes]) -> str:
    """The end of what a process has written to an open file, in one line."""
    log.seek(0)
    lines = [line.strip() for line in log.read().decode(errors="replace").splitlines() if line.strip()]
    return " / ".join(lines[-_NUM_LAST_LINES:])


def free_port() -> int:
    """A loopback port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


def wait_until_listening(port: int) -> None:
    """Return when something accepts connections on a loopback port."""
    deadline_s = time.monotonic() + _READY_TIMEOUT_S
    while time.monotonic() < deadline_s:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=5).close()
            return
        except OSError:
            time.sleep(0.05)
    raise Failed(f"nothing listened on port {port} within {_READY_TIMEOUT_S:.0f} s")


def _wait_until_healthy(process: subprocess.Popen[bytes], url: str, log: IO[bytes]) -> None:
    deadline_s = time.monotonic() + _READY_TIMEOUT_S
    while time.monotonic() < deadline_s:
        if process.poll() is not None:
            raise Failed(
                f"{process.args} ended with status {process.returncode} before it was ready: {last_words(log)}"
            )
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.1)
    raise Failed(f"{url} was not healthy within {_READY_TIMEOUT_S:.0f} s")
