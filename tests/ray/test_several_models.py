"""Several models of one server over the hosts of one Ray cluster: graphs, and a chain with a language model."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

import shoal
from tests.executor.graphs import skip_chain
from tests.plain_runtime import plain_session
from tests.ray.hosts import RayHosts
from tests.ray.serving import WIDTH, served

WORKER = "shoal.worker.remote_main"
FUNCTIONS = '''
def to_rows(text, numbers):
    """A row of numbers for a text, and what to ask."""
    return numbers + len(text), text + "!"
'''
_ASK = """
import json, sys
import httpx

url, body = sys.argv[1], json.loads(sys.argv[2])
response = httpx.post(url, json=body, timeout=100.0)
assert response.status_code == 200, response.text
print(response.text)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Path:
    """Two graphs, and a chain of both with a language model."""
    folder = tmp_path_factory.mktemp("several")
    for name in ("first", "second"):
        skip_chain(folder / f"{name}.onnx", width=WIDTH)
    load = {"split": "1", "precision": "fp32", "threads": 1, "kv_memory": "16M"}
    steps = [
        {"call": "steps.py:to_rows", "inputs": ["text", "numbers"], "outputs": ["x", "prompt"]},
        {"model": "first.onnx", "inputs": {"x": "x"}, "outputs": {"once": "y"}},
        {"model": "second.onnx", "inputs": {"x": "once"}, "outputs": {"twice": "y"}},
        {
            "llm": str(model),
            "prompt": "{prompt}",
            "raw": True,
            "load": load,
            "sampling": {"max_tokens": 8, "temperature": 0.0, "ignore_eos": True},
            "outputs": ["answer"],
        },
    ]
    chain = {"inputs": {"text": "text", "numbers": "tensor"}, "steps": steps, "outputs": ["twice", "answer"]}
    (folder / "steps.py").write_text(FUNCTIONS)
    (folder / "chain.yaml").write_text(yaml.safe_dump(chain | {"name": "both"}))
    return folder


def ask(cluster: RayHosts, url: str, body: object) -> dict[str, list[object]]:
    """The outputs of a model or chain, asked for on the first host."""
    command = cluster.hosts[0].command(sys.executable, "-c", _ASK, url, json.dumps(body))
    done = subprocess.run(command, capture_output=True, text=True, timeout=120.0)
    assert done.returncode == 0, done.stderr
    return {output["name"]: output["data"] for output in json.loads(done.stdout)["outputs"]}


@pytest.mark.timeout(600)
def test_a_chain_over_hosts_one_of_which_goes_away(cluster: RayHosts, folder: Path, model: Path) -> None:
    x = np.random.default_rng(5).standard_normal((1, WIDTH), np.float32)
    with shoal.LLM(model, split="1", threads=1, precision="fp32") as llm:
        told = llm.generate("fish!", max_tokens=8, temperature=0.0, ignore_eos=True).text
    rows = x + 4
    for name in ("first", "second"):
        rows = np.asarray(plain_session(folder / f"{name}.onnx").run(["y"], {"x": rows})[0])
    tensors = [
        {"name": "text", "datatype": "BYTES", "shape": [1], "data": ["fish"]},
        {"name": "numbers", "datatype": "FP32", "shape": [1, WIDTH], "data": x.ravel().tolist()},
    ]
    away = cluster.hosts[2]
    with served(cluster, folder, "dp=2", "--threads", "1", is_chain=True) as server:
        workers = [len(host.processes(WORKER)) for host in cluster.hosts]
        assert workers == [2, 2, 1], "two copies of two graphs, and a language model, each where least is"
        url = f"{server.url}/v2/models/both/infer"
        for is_away in (False, True):
            if is_away:
                away.set_link(False)
            try:
                outputs = ask(cluster, url, {"inputs": tensors})
            finally:
                away.set_link(True)
            assert outputs["answer"] == [told]
            np.testing.assert_allclose(np.ravel(outputs["twice"]), rows.ravel(), rtol=1e-4, atol=1e-5)
