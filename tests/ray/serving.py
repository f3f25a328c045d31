"""A served model on the hosts, and streams that follow it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.ray.hosts import RayHosts

NUM_STREAMS, NUM_TOKENS = 6, 240
OPTIONS = ("--cluster", "ray", "--port", "0", "--no-access-log")
LANGUAGE_OPTIONS = ("--precision", "fp32", "--name", "tiny", "--kv-memory", "16M")
WIDTH = 16
"""of the graph's rows"""
_HEAD = re.compile(r"^\S+Z [A-Z]+ [\w.]+: ")
_ANSWER_TIMEOUT_S = 120.0
_REPORT_TIMEOUT_S = 180.0
"""Much longer than recovery takes: Ray starts Python processes on a machine that does other things as well."""


class Server:
    """What is known of it."""

    def __init__(self) -> None:
        self.url = ""
        self.lines: list[str] = []
        """what it has logged, without time, level and logger"""
        self.told_s: list[float] = []
        """when each of the lines came, on the monotonic clock"""
        self._has_more = threading.Condition()

    def follow(self, stderr: Iterable[str]) -> None:
        """Take in what it reports, in a thread of its own."""
        for line in stderr:
            with self._has_more:
                self.lines.append(_HEAD.sub("", line))
                self.told_s.append(time.monotonic())
                self._has_more.notify_all()

    def wait_for(self, line: str) -> None:
        """Until it has reported this."""
        self.wait_for_match(re.escape(line))

    def wait_for_match(self, pattern: str, after: int = 0) -> float:
        """Until it has reported a line like this, behind the first `after` lines. Returns when the line came."""
        line = re.compile(pattern + "\n")

        def first() -> int | None:
            return next((at for at in range(after, len(self.lines)) if line.fullmatch(self.lines[at])), None)

        with self._has_more:
            has_come = self._has_more.wait_for(lambda: first() is not None, _REPORT_TIMEOUT_S)
            assert has_come, (pattern, self.lines)
            at = first()
            assert at is not None
            return self.told_s[at]

    def status(self, cluster: RayHosts) -> dict[str, Any]:
        """Of the model, as `shoal status` has it."""
        (model,) = json.loads(cluster.run("status", self.url, "--json").stdout)["models"]
        return model


def wait_until(is_so: Callable[[], bool]) -> None:
    """Until what no process tells is so."""
    deadline_s = time.monotonic() + _REPORT_TIMEOUT_S
    while not is_so():
        assert time.monotonic() < deadline_s
        time.sleep(0.1)


@contextmanager
def served(cluster: RayHosts, model: Path, split: str, *options: str, is_chain: bool = False) -> Iterator[Server]:
    """A language model, a graph or a chain, while the block runs."""
    own = () if is_chain or model.suffix == ".onnx" else LANGUAGE_OPTIONS
    command = cluster.shoal("serve", str(model), "--split", split, *OPTIONS, *own, *options)
    with subprocess.Popen(command, env=cluster.environment, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        server = Server()
        follower = threading.Thread(target=server.follow, args=(process.stderr,), daemon=True)
        try:
            line = next(line for line in process.stderr if line.startswith("serving "))
            server.url = line.split()[-1].removesuffix("/v2")
            follower.start()
            yield server
        finally:
            process.terminate()
            process.wait(60.0)
            if follower.is_alive():
                follower.join(60.0)  # before the pipe that it reads is closed
            print(*server.lines, sep="\n")


@contextmanager
def asked(cluster: RayHosts, url: str, model: Path) -> Iterator[Clients]:
    """Clients that have all had a first answer, and whose last answers are still to come."""
    program = ("tests.ray.clients.streams", url, str(NUM_STREAMS), str(NUM_TOKENS))
    if model.suffix == ".onnx":
        program = ("tests.ray.clients.inferences", url, str(NUM_STREAMS), str(WIDTH))
    command = cluster.hosts[0].command(sys.executable, "-m", *program)
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        yield Clients(process)


class Clients:
    """Of a served model, each with requests of its own."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def finish(self) -> Any:
        """What each was told: its different texts or answers, which should be one."""
        return json.loads(self._process.communicate(timeout=_ANSWER_TIMEOUT_S)[0].splitlines()[-1])
