"""A server as a child process: what it says when it ends before it serves, and that it is read whatever it writes."""

from __future__ import annotations

import asyncio

import pytest

from shoal.errors import WorkerLost
from shoal.server.switch.server_process import ServerProcess
from shoal.server.switch.switchboard import ServerKilled

ROW = "echo ' 0  1  cores 0   layers 0 to 15   134 MB' >&2"
"""of a plan's table"""


async def started(script: str) -> ServerProcess:
    """The shell in the place of a server, once it has ended by itself."""
    process = await asyncio.create_subprocess_exec("sh", "-c", script, stderr=asyncio.subprocess.PIPE)
    server = ServerProcess(process)
    try:
        async with asyncio.timeout(30):
            await server.wait_until_started()
            await server.wait()
    finally:
        await server.end()
    return server


@pytest.mark.parametrize(
    ("script", "kind", "told"),
    [
        (f"{ROW}; kill -9 $$", ServerKilled, "its server was killed while it loaded the model: most likely memory"),
        (f"{ROW}; kill -SEGV $$", ServerKilled, "SIGSEGV"),
        (f"{ROW}; echo 'shoal: it needs 9 GB' >&2; {ROW}; exit 2", WorkerLost, "^it needs 9 GB$"),
        (f"{ROW}; exit 3", WorkerLost, "status 3 .* layers 0 to 15"),
    ],
)
def test_why_it_ended_before_it_took_requests(script: str, kind: type[WorkerLost], told: str) -> None:
    with pytest.raises(kind, match=told) as caught:
        asyncio.run(started(script))
    assert type(caught.value) is kind


def test_lines_without_end_are_passed_over() -> None:
    long = "head -c 200000 /dev/zero | tr '\\0' x >&2; echo >&2"
    server = asyncio.run(started(f"{long}; echo 'serving m at http://127.0.0.1:1' >&2; {long}; echo over >&2"))
    assert server.url == "http://127.0.0.1:1"
    assert server.lines[-1] == "over"
