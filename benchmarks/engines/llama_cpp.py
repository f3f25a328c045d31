"""llama.cpp: `llama-bench`, `llama-server`, `llama-completion` and `ggml-rpc-server` of one build."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from memory import watched
from processes import free_port, running, wait_until_listening

from engines.first_token import time_to_first_output
from engines.reading import Reading
from engines.streams import CONTEXT, HttpServer

_TIMEOUT_S = 600.0


class LlamaCpp:
    """The programs in a folder, on one model file."""

    def __init__(self, programs: Path, model: Path) -> None:
        self._programs = programs
        self.model = model

    def bench(
        self,
        *,
        prompt_tokens: int,
        output_tokens: int,
        threads: int,
        depth: int = 0,
        cache: str = "",
        rpc_workers: int = 0,
    ) -> Reading:
        """Tokens/s of `llama-bench`: prefill of one prompt, or decode of one stream; RPC servers as in `serving`.

        `depth`: tokens before what is measured. `cache`: how keys and values are held, with fused attention; empty: as
        llama-bench does by itself.
        """
        command = [self._program("llama-bench"), "-m", str(self.model), "-t", str(threads), "-r", "3"]
        command += ["-p", str(prompt_tokens), "-n", str(output_tokens), "-o", "json"]
        command += ["-d", str(depth)] if depth else []
        command += ["-fa", "1", "-ctk", cache, "-ctv", cache] if cache else []
        with self._rpc_option(rpc_workers) as rpc, watched() as peak:
            result = subprocess.run([*command, *rpc], check=True, capture_output=True, text=True, timeout=_TIMEOUT_S)
        tokens_per_s = float(json.loads(result.stdout)[0]["avg_ts"])
        return Reading(value=tokens_per_s, computed_tokens_per_s=tokens_per_s, memory=peak.memory)

    def first_token(self, *, threads: int) -> Reading:
        """Seconds from starting `llama-completion` to its first output."""
        options = ["-t", str(threads), "-c", str(CONTEXT), "-p", "Hi", "-n", "1", "-no-cnv", "--no-display-prompt"]
        return time_to_first_output([self._program("llama-completion"), "-m", str(self.model), *options])

    @contextmanager
    def serving(
        self, *, threads: int, slots: int, context: int = CONTEXT, rpc_workers: int = 0
    ) -> Iterator[HttpServer]:
        """A llama-server; with `rpc_workers` the model lies on that many RPC servers of 1 thread.

        Finished prompts are not kept beside the slots: no prompt comes twice.
        """
        port = free_port()
        command = [self._program("llama-server"), "-m", str(self.model), "--host", "127.0.0.1", "--port", str(port)]
        command += ["-t", str(threads), "-tb", str(threads), "-np", str(slots), "-c", str(slots * context)]
        command += ["--cache-ram", "0"]
        with ExitStack() as stack:
            command += stack.enter_context(self._rpc_option(rpc_workers))
            stack.enter_context(running(command, health_url=f"http://127.0.0.1:{port}/health"))
            yield HttpServer(f"http://127.0.0.1:{port}")

    @contextmanager
    def _rpc_option(self, num_workers: int) -> Iterator[list[str]]:
        """Arguments that put the whole model on RPC servers, which run while the block runs."""
        with ExitStack() as stack:
            workers = [stack.enter_context(self._rpc_worker()) for _ in range(num_workers)]
            yield ["--rpc", ",".join(workers), "-ngl", "99"] if workers else []

    @contextmanager
    def _rpc_worker(self) -> Iterator[str]:
        port = free_port()
        with running([self._program("ggml-rpc-server"), "-H", "127.0.0.1", "-p", str(port), "-t", "1"]):
            wait_until_listening(port)
            yield f"127.0.0.1:{port}"

    def _program(self, name: str) -> str:
        return str(self._programs / name)


def llama_cpp_version(programs: Path) -> str:
    """What `llama-server` says of itself."""
    result = subprocess.run([programs / "llama-server", "--version"], check=True, capture_output=True, text=True)
    said = (result.stdout + result.stderr).splitlines()
    return next(line.removeprefix("version: ") for line in said if line.startswith("version: "))
