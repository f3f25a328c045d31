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
"""So many that a cable is pulled long before their end."""
OPTIONS = ("--cluster", "ray", "--precision", "fp32", "--name", "tiny", "--port", "0", "--kv-memory", "16M")
_HEAD = re.compile(r"^\S+Z [A-Z]+ [\w.]+: ")
_REPORT_TIMEOUT_S = 240.0
"""Much longer than recovery takes: Ray starts Python processes on a machine that does other things as well."""


class Server:
    """What is known of it."""

    def __init__(self) -> None:
        self.url = ""
        self.lines: list[str] = []
        """what it has logged, without time, level and logger"""
        self._has_more = threading.Condition()

    def follow(self, stderr: Iterable[str]) -> None:
        """Take in what it reports, in a thread of its own."""
        for line in stderr:
            with self._has_more:
                self.lines.append(_HEAD.sub("", line))
                self._has_more.notify_all()

    def wait_for(self, line: str) -> None:
        """Until it has reported this."""
        self.wait_for_match(re.escape(line))

    def wait_for_match(self, pattern: str, after: int = 0) -> None:
        """Until it has reported a line like this, behind the first `after` lines."""
        line = re.compile(pattern + "\n")
        with self._has_more:
            has_come = self._has_more.wait_for(lambda: any(map(line.fullmatch, self.lines[after:])), _REPORT_TIMEOUT_S)
        assert has_come, (pattern, self.lines)

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
def served(cluster: RayHosts, model: Path, split: str) -> Iterator[Server]:
    command = cluster.shoal("serve", str(model), "--split", split, *OPTIONS)
    with subprocess.Popen(command, env=cluster.environment, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        server = Server()
        try:
            server.url = next(line for line in process.stderr if line.startswith("serving ")).split()[-1]
            threading.Thread(target=server.follow, args=(process.stderr,), daemon=True).start()
            yield server
        finally:
            process.terminate()
            process.wait(60.0)
            print(*server.lines, sep="\n")


def start_streams(cluster: RayHosts, url: str) -> subprocess.Popen[str]:
    command = (sys.executable, "-m", "tests.ray.streams", url, str(NUM_STREAMS), str(NUM_TOKENS))
    return subprocess.Popen(cluster.hosts[0].command(*command), stdout=subprocess.PIPE, text=True)
