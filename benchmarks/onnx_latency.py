"""What serving adds to one request: `python benchmarks/onnx_latency.py`.

One client over loopback, binary tensors, MiniLM with one sentence; against `session.run` of the same file, with as
many threads, in this process. Both in turn, a few requests each, so that they see the same machine.

ROUNDS=5, TOKENS=16 and THREADS=1 change the run.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

from closed_loop import Connection
from encoder_server import OUTPUT, check_shoal, plain_session, sentences, shoal_requests, shoal_server
from real_inputs import export_minilm
from report import write_result

_TARGET_S = 1e-3
_DEFAULTS = {"ROUNDS": "5", "TOKENS": "16", "THREADS": "1"}
_COMPUTE_METRIC = "shoal:inference_compute_infer_duration_seconds{"
_BLOCKS = 20
_BLOCK_REQUESTS = 20
"""One after the other, before the other way has its turn."""


def main() -> None:
    """Measure, print and write the result file."""
    rounds, tokens, threads = (int(os.environ.get(name, value)) for name, value in _DEFAULTS.items())
    with tempfile.TemporaryDirectory() as folder:
        model = export_minilm(Path(folder))
        with shoal_server(model, "--split", "1", "--threads", str(threads)) as port:
            bare, served = _ways(model, port, tokens, threads)
            results = [_measure(bare, served, port) for _ in range(rounds + 1)][1:]
    added_s = [served_s - bare_s for bare_s, served_s, _ in results]
    lines = _table(results, added_s)
    print("\n".join(lines))
    given = " ".join(f"{name}={value}" for name, value in zip(_DEFAULTS, (rounds, tokens, threads), strict=True))
    print(write_result("onnx-latency", lines, command=f"{given} python benchmarks/onnx_latency.py"))


def _ways(model: Path, port: int, tokens: int, threads: int) -> tuple[Callable[[], object], Callable[[], object]]:
    """The bare run and the served request of one sentence."""
    (inputs,) = sentences(1, tokens)
    check_shoal(port, model, inputs)
    (request,) = shoal_requests([inputs])
    session, connection = plain_session(model, threads), Connection(port)
    return lambda: session.run([OUTPUT], inputs), lambda: connection.ask(request)


def _measure(bare: Callable[[], object], served: Callable[[], object], port: int) -> tuple[float, float, float]:
    """Median seconds of both, and mean seconds that the worker computed a served one."""
    times_s: tuple[list[float], list[float]] = [], []
    before_s = _worker_compute_s(port)
    for _ in range(_BLOCKS):
        for run, taken_s in zip((bare, served), times_s, strict=True):
            taken_s += [_timed(run) for _ in range(_BLOCK_REQUESTS)]
    compute_s = (_worker_compute_s(port) - before_s) / len(times_s[1])
    return statistics.median(times_s[0]), statistics.median(times_s[1]), compute_s


def _worker_compute_s(port: int) -> float:
    """What the server has counted so far."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(_COMPUTE_METRIC))


def _timed(run: Callable[[], object]) -> float:
    started_s = time.perf_counter()
    run()
    return time.perf_counter() - started_s


def _table(results: list[tuple[float, float, float]], added_s: list[float]) -> list[str]:
    added = statistics.median(added_s)
    reached = "yes" if added <= _TARGET_S else "no"
    return [
        f"Each round: medians of {_BLOCKS * _BLOCK_REQUESTS} runs of each way.",
        "",
        "| added by serving | target | measured (median) | lowest to highest | reached |",
        "|---|---|---|---|---|",
        f"| ms a request | at most {_TARGET_S * 1e3:g} | {added * 1e3:.2f} | {min(added_s) * 1e3:.2f} to "
        f"{max(added_s) * 1e3:.2f} | {reached} |",
        "",
        "| round | bare session, ms | served, ms | of it the worker computing, ms | all else, ms |",
        "|---|---|---|---|---|",
        *(
            f"| {index} | {bare_s * 1e3:.2f} | {served_s * 1e3:.2f} | {compute_s * 1e3:.2f} | "
            f"{(served_s - compute_s) * 1e3:.2f} |"
            for index, (bare_s, served_s, compute_s) in enumerate(results, 1)
        ),
    ]


if __name__ == "__main__":
    main()
