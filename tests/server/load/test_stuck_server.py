"""A server whose event loop is kept for good ends after one signal, with the stack that keeps it."""

from __future__ import annotations

import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import httpx

SERVER = """
from starlette.applications import Starlette
from starlette.routing import Route
from shoal.server.http import serve
from shoal.server.http.draining import Drain

class Backend:
    on_death = None
    async def close(self): pass

async def for_ever(request):
    print("stuck", flush=True)
    while True: pass

serve.STUCK_S = 0.3
app = Starlette(routes=[Route("/", for_ever)])
app.state.backend, app.state.drain = Backend(), Drain()
say = lambda url: print(url, flush=True)
serve.serve_app(app, serve.bind("127.0.0.1", 0), on_ready=say, drain_timeout_s=0.2)
"""


def test_one_signal_ends_it() -> None:
    command = [sys.executable, "-P", "-c", SERVER]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            with httpx.Client(timeout=60) as http:
                request = http.build_request("GET", server.stdout.readline().strip())
                with ThreadPoolExecutor() as pool:
                    answer = pool.submit(http.send, request)
                    assert server.stdout.readline() == "stuck\n"
                    server.send_signal(signal.SIGTERM)
                    _, errors = server.communicate(timeout=60)
                    assert isinstance(answer.exception(), httpx.TransportError)
        finally:
            server.kill()
    assert server.returncode == 1
    assert "for_ever" in errors
