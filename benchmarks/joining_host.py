"""A host joins a server of one: `python benchmarks/joining_host.py`, as root.

Hosts, model and load are those of several_hosts.py. The server runs with `--split auto --replan`; measured are its
tokens/s before and after, each warm and with prompts of its own, and the time from when the host is part of the Ray
cluster to when it serves. ROUNDS=2 sets the number of rounds; one takes about three minutes.
"""

from __future__ import annotations

import os
import statistics
import time

from report import write_result
from several_hosts import PORT, STREAMS, load, run_json, shoal_server

from tests.ray.hosts import RayHosts, ray_hosts, why_not

_OPTIONS = ("--cluster", "ray", "--replan", "--streams", str(STREAMS), "--objective", "throughput")
_JOIN_TIMEOUT_S = 120.0


def main() -> None:
    """Measure, print and write the result file."""
    if reason := why_not():
        raise SystemExit(reason)
    rounds = int(os.environ.get("ROUNDS", "2"))
    with ray_hosts(2, has_own_core=True) as cluster:
        figures = [_join(cluster, index) for index in range(rounds)]
    lines = ["| round | tokens/s before | after | ratio | serves after, s |", "|---|---|---|---|---|"]
    for index, (alone, together, join_s) in enumerate(figures):
        lines.append(f"| {index + 1} | {alone:.1f} | {together:.1f} | {together / alone:.2f} | {join_s:.1f} |")
    ratio = statistics.median(together / alone for alone, together, _ in figures)
    lines += ["", f"Median ratio: {ratio:.2f}"]
    print("\n".join(lines))
    print(write_result("joining-host", lines, command=f"ROUNDS={rounds} python benchmarks/joining_host.py"))


def _join(cluster: RayHosts, index: int) -> tuple[float, float, float]:
    """Tokens/s of one host, of both, and seconds until the second serves."""
    joining, seed = cluster.hosts[1], 10 * index
    cluster.leave(joining)
    with shoal_server(cluster, *_OPTIONS):
        load(cluster, "model", seed=seed + 1)
        alone = load(cluster, "model", seed=seed + 2)
        cluster.join(joining)
        started_s = time.perf_counter()
        status = cluster.shoal("status", f"http://{cluster.hosts[0].address}:{PORT}", "--json")
        while len(run_json(status, cluster)["models"][0]["replicas"]) == 1:
            if time.perf_counter() - started_s > _JOIN_TIMEOUT_S:
                raise SystemExit("the host that has joined is not used")
        join_s = time.perf_counter() - started_s
        load(cluster, "model", seed=seed + 3)
        return alone, load(cluster, "model", seed=seed + 4), join_s


if __name__ == "__main__":
    main()
