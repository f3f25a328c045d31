"""`shoal bench chaos`. It asks for a number of answers within a given time, so it needs the machine for itself."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from tests.executor.graphs import skip_chain
from tests.model.tiny_adapters import write_adapter
from tests.model.tiny_models import tiny_llama_tensors, write_gguf

ATTENTION = ("self_attn.q_proj", "self_attn.o_proj")
COUNTS = ("fds", "threads", "children", "memfds", "memfd_bytes")
_CONNECTIONS_ABOUT_TO_CLOSE = 2
"""The server may not have seen yet that a client is gone: 26 descriptors were counted against 25 in two runs of six."""


def test_chaos_with_a_small_model(tiny_model: Path) -> None:
    options = ("--split", "dp=2", "--precision", "fp32", "--threads", "1", "--kill-every", "1.5", "--minutes", "0.1")
    load = ("--clients", "4", "--requests", "8", "--output-tokens", "60", "--json")
    command = [sys.executable, "-m", "shoal.cli.main", "bench", "chaos", str(tiny_model), *options, *load]
    report = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout)
    assert report["kills"] >= 2
    assert report["success"] >= 32
    assert (report["failed"], report["mismatched"], report["first_error"]) == (0, 0, None)
    assert report["max_difference"] < 1e-3
    assert report["losses"] >= report["recoveries"] >= 1
    assert report["recovery_s_max"] >= report["recovery_s_p50"] > 0
    assert report["server_exit_status"] == 0
    before, after = report["resources_before"], report["resources_after"]
    growth = {name: after[name] - before[name] for name in COUNTS}
    assert growth.pop("fds") <= _CONNECTIONS_ABOUT_TO_CLOSE
    assert not any(growth.values()), growth


def test_chaos_with_outputs_of_a_given_form(tmp_path: Path) -> None:
    """Schemas, expressions, choices and tools, up to three choices each, while random workers are killed.

    A vocabulary of bytes makes a long prompt of what a model is told of its tools.
    """
    long_context = {"llama.context_length": 2048}
    model = write_gguf(tmp_path / "model.gguf", "llama", tiny_llama_tensors(), metadata=long_context)
    options = ("--split", "dp=2,pp=2", "--precision", "fp32", "--threads", "1", "--kill-every", "1")
    load = ("--guided", "--minutes", "0.05", "--clients", "4", "--requests", "3", "--json")
    sizes = ("--prompt-tokens", "4", "--output-tokens", "40")
    command = [sys.executable, "-m", "shoal.cli.main", "bench", "chaos", str(model), *options, *load, *sizes]
    report = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout)
    assert report["kills"] >= 2
    assert report["success"] >= 12
    assert (report["failed"], report["mismatched"], report["first_error"]) == (0, 0, None)
    assert report["losses"] >= 1


def test_chaos_with_adapters(tiny_model: Path, tmp_path: Path) -> None:
    """Requests of the model and of two adapters in the same steps, which go on with what they had."""
    shapes = {f"model.layers.{layer}.{name}": (64, 64) for layer in range(4) for name in ATTENTION}
    adapters = [write_adapter(tmp_path / f"adapter-{seed}", shapes, seed=seed) for seed in (1, 2)]
    loras = [word for path in adapters for word in ("--lora", f"{path.name}={path}")]
    options = ("--split", "dp=2,pp=2", "--precision", "fp32", "--threads", "1", "--kill-every", "1")
    load = ("--minutes", "0.08", "--clients", "4", "--requests", "6", "--output-tokens", "60", "--json")
    command = [sys.executable, "-m", "shoal.cli.main", "bench", "chaos", str(tiny_model), *options, *loras, *load]
    report = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout)
    assert report["kills"] >= 2
    assert report["success"] >= 24
    assert (report["failed"], report["mismatched"], report["first_error"]) == (0, 0, None)
    assert report["losses"] >= 1


def test_chaos_with_a_graph(tmp_path: Path) -> None:
    model, inputs = skip_chain(tmp_path / "model.onnx"), tmp_path / "rows.npz"
    np.savez(inputs, x=np.random.default_rng(0).standard_normal((40, 8), np.float32))
    split = ("--inputs", str(inputs), "--split", "dp=2,pp=2", "--threads", "1")
    options = (*split, "--kill-every", "2", "--minutes", "0.1")
    load = ("--clients", "4", "--requests", "50", "--json")
    command = [sys.executable, "-m", "shoal.cli.main", "bench", "chaos", str(model), *options, *load]
    report = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout)
    assert report["kills"] >= 2
    assert report["success"] >= 200
    assert (report["failed"], report["mismatched"], report["first_error"]) == (0, 0, None)
    assert report["losses"] >= report["recoveries"] >= 1
    assert report["server_exit_status"] == 0
