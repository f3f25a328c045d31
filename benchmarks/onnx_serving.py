"""Dynamic batching under load, and the same session in Ray Serve: `python benchmarks/onnx_serving.py`.

32 clients over loopback, each with one sentence at a time, binary tensors, MiniLM. Contenders: `shoal serve` with
batches of up to 32, the same with batches of 1, and a Ray Serve deployment with `@serve.batch` of up to 32, with as
many replicas and threads. Every measurement starts its server anew, so that only one is there at a time.

RAY_PYTHON=/path/to/python adds Ray Serve. Its environment is thrown away afterwards:
    python -m venv /tmp/ray && /tmp/ray/bin/pip install "ray[serve]" onnxruntime==1.32.0 numpy
    RAY_PYTHON=/tmp/ray/bin/python python benchmarks/onnx_serving.py
One replica of one thread for each core, for all contenders, unless REPLICAS=1 and THREADS=2 (of each) say otherwise.
ROUNDS=5, TOKENS=8 and REQUESTS=3200 change the run, too.
"""

from __future__ import annotations

import os
import tempfile
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from closed_loop import LoadResult, closed_loop
from encoder_server import (
    check_ray,
    check_shoal,
    num_cores,
    ray_requests,
    ray_server,
    sentences,
    shoal_requests,
    shoal_server,
)
from ratios import Target, measure_rounds, ratio_table, sample_table
from real_inputs import export_minilm
from report import write_result

_CLIENTS = 32
_MAX_BATCH = 32
_WARM_UP_WAVES = 4
_THROUGHPUT_TARGETS = (
    Target(what="requests/s, batched vs one at a time", contender="batched", reference="one at a time", at_least=2.0),
    Target(what="requests/s, batched vs Ray Serve", contender="batched", reference="Ray Serve", at_least=3.0),
)
_LATENCY_TARGETS = (
    Target(what="p99, one at a time vs batched", contender="one at a time", reference="batched", at_least=1.0),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What is sent to every server, and the latencies that came of it."""

    model: Path
    tokens: int
    threads: int
    replicas: int
    num_requests: int
    p99_ms: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def shoal(self, name: str, max_batch: int) -> float:
        """Requests/s of Shoal's server."""
        split = "1" if self.replicas == 1 else f"dp={self.replicas}"
        options = ("--split", split, "--threads", str(self.threads), "--max-batch", str(max_batch))
        inputs = sentences(_CLIENTS, self.tokens)
        with shoal_server(self.model, *options) as port:
            check_shoal(port, self.model, inputs[0])
            return self._rate(name, port, shoal_requests(inputs))

    def ray(self, name: str, python: str) -> float:
        """Requests/s of the Ray Serve deployment."""
        sizes = {"--threads": self.threads, "--replicas": self.replicas, "--max-batch": _MAX_BATCH}
        inputs = sentences(_CLIENTS, self.tokens)
        options = [str(part) for size in sizes.items() for part in size]
        with ray_server(python, self.model, *options) as port:
            check_ray(port, self.model, inputs[0])
            return self._rate(name, port, ray_requests(inputs))

    def _rate(self, name: str, port: int, requests: list[bytes]) -> float:
        closed_loop(port, requests, num_requests=_WARM_UP_WAVES * _CLIENTS)
        result: LoadResult = closed_loop(port, requests, num_requests=self.num_requests)
        self.p99_ms[name].append(result.percentile_s(99) * 1e3)
        return result.requests_per_s


def main() -> None:
    """Measure, print and write the result file."""
    defaults = {"ROUNDS": 5, "TOKENS": 8, "THREADS": 1, "REPLICAS": num_cores(), "REQUESTS": 3200}
    given = {name: int(os.environ.get(name, value)) for name, value in defaults.items()}
    with tempfile.TemporaryDirectory() as folder:
        load = Load(
            model=export_minilm(Path(folder)),
            tokens=given["TOKENS"],
            threads=given["THREADS"],
            replicas=given["REPLICAS"],
            num_requests=given["REQUESTS"],
        )
        rates = measure_rounds(_contenders(load), given["ROUNDS"], "requests/s")
    lines = [
        f"{_CLIENTS} clients, sentences of {load.tokens} tokens, {load.replicas} replicas of {load.threads} threads.",
        "",
        *ratio_table(rates, _THROUGHPUT_TARGETS),
        *ratio_table(load.p99_ms, _LATENCY_TARGETS)[2:],
        "",
        *sample_table(rates, "requests/s"),
        "",
        *sample_table(load.p99_ms, "p99, ms", 1),
    ]
    print("\n".join(lines))
    variables = [f"{name}={value}" for name, value in given.items()] + ["RAY_PYTHON=..."] * ("RAY_PYTHON" in os.environ)
    command = f"{' '.join(variables)} python benchmarks/onnx_serving.py"
    print(write_result("onnx-serving", lines, command=command))


def _contenders(load: Load) -> dict[str, Callable[[], float]]:
    contenders: dict[str, Callable[[], float]] = {
        "batched": lambda: load.shoal("batched", _MAX_BATCH),
        "one at a time": lambda: load.shoal("one at a time", 1),
    }
    if python := os.environ.get("RAY_PYTHON"):
        contenders["Ray Serve"] = lambda: load.ray("Ray Serve", python)
    return contenders


if __name__ == "__main__":
    main()
