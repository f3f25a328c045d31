"""llama.cpp beside Shoal, where its programs are given: LLAMA_SERVER=/path/to/llama-server.

`llama-bench` and `ggml-rpc-server` (or `rpc-server`) are taken from the same folder.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from processes import free_port, running, wait_until_listening

_LOAD_TIMEOUT_S = 600.0


class LlamaCpp:
    """The programs of one build, on one model file."""

    def __init__(self, server: Path, model: Path) -> None:
        self._server = server
        self._model = model

    def bench(self, *, prompt_tokens: int, output_tokens: int, threads: int, rpc_workers: int = 0) -> float:
        """Tokens/s of `llama-bench`: prefill of one prompt, or decode of one stream; RPC servers as in `serving`."""
        command = [str(self._server.with_name("llama-bench")), "-m", str(self._model), "-t", str(threads), "-r", "3"]
        command += ["-p", str(prompt_tokens), "-n", str(output_tokens), "-o", "json"]
        with self._rpc_option(rpc_workers) as rpc:
            result = subprocess.run(
                [*command, *rpc], check=True, capture_output=True, text=True, timeout=_LOAD_TIMEOUT_S
            )
        return float(json.loads(result.stdout)[0]["avg_ts"])

    def version(self) -> str:
        """What `llama-server` says of itself."""
        result = subprocess.run([str(self._server), "--version"], check=True, capture_output=True, text=True)
        said = (result.stdout + result.stderr).splitlines()
        return next(line.removeprefix("version: ") for line in said if line.startswith("version: "))

    @contextmanager
    def serving(self, *, threads: int, slots: int, context: int, rpc_workers: int = 0) -> Iterator[str]:
        """Base URL of a llama-server; with `rpc_workers` the model lies on that many RPC servers of 1 thread."""
        port = free_port()
        command = [str(self._server), "-m", str(self._model), "--host", "127.0.0.1", "--port", str(port)]
        command += ["-t", str(threads), "-tb", str(threads), "-np", str(slots), "-c", str(slots * context)]
        with ExitStack() as stack:
            command += stack.enter_context(self._rpc_option(rpc_workers))
            stack.enter_context(running(command, health_url=f"http://127.0.0.1:{port}/health"))
            yield f"http://127.0.0.1:{port}"

    @contextmanager
    def _rpc_option(self, num_workers: int) -> Iterator[list[str]]:
        """Arguments that put the whole model on RPC servers, which run while the block runs."""
        with ExitStack() as stack:
            workers = [stack.enter_context(self._rpc_worker()) for _ in range(num_workers)]
            yield ["--rpc", ",".join(workers), "-ngl", "99"] if workers else []

    @contextmanager
    def _rpc_worker(self) -> Iterator[str]:
        names = ("ggml-rpc-server", "rpc-server")
        program = next(path for name in names if (path := self._server.with_name(name)).exists())
        port = free_port()
        with running([str(program), "-H", "127.0.0.1", "-p", str(port), "-t", "1"]):
            wait_until_listening(port)
            yield f"127.0.0.1:{port}"
