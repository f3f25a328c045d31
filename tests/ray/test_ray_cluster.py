"""Models over several hosts that Ray has found."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest

from shoal.protocol.codec import Activations, pack_activations
from shoal.protocol.language_messages import StepId
from shoal.protocol.worker_messages import Generation
from tests.ray.hosts import RayHosts
from tests.ray.wire import captured

OPTIONS = ("--precision", "fp32", "--threads", "1", "--cluster", "ray")


@pytest.mark.sample(every=2)
@pytest.mark.parametrize("split", ["pp=2", "tp=2", "dp=2", "pp=3", "tp=3", "dp=3"])
def test_agrees_with_the_whole_model(split: str, cluster: RayHosts, model: Path) -> None:
    done = cluster.run("verify", str(model), "--split", split, "--max-tokens", "12", "--json", *OPTIONS)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["agrees"]
    assert len({worker["machine"] for worker in result["plan"]["workers"]}) == int(split[-1])


def test_a_machine_computes_on_a_device_of_its_own(cluster: RayHosts, model: Path, openvino_python: str) -> None:
    devices = ("--device", "cpu,openvino", "--worker-python", openvino_python)
    done = cluster.run("verify", str(model), "--split", "pp=2", "--max-tokens", "12", "--json", *devices, *OPTIONS)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["agrees"]
    assert [worker["device"] for worker in result["plan"]["workers"]] == [None, "openvino:0"]
    assert len({worker["machine"] for worker in result["plan"]["workers"]}) == 2


def test_machines_are_measured_and_a_plan_is_chosen(cluster: RayHosts, model: Path) -> None:
    done = cluster.run("plan", str(model), "--cluster", "ray", "--precision", "fp32", "--json")
    assert done.returncode == 0, done.stderr
    workers = json.loads(done.stdout)["plan"]["workers"]
    assert {worker["machine"] for worker in workers} <= {host.address for host in cluster.hosts}


def test_a_model_that_a_machine_does_not_have_is_named(cluster: RayHosts) -> None:
    done = cluster.run("verify", "nowhere.gguf", "--split", "pp=2", "--cluster", "ray")
    assert done.returncode != 0
    assert "nowhere.gguf" in done.stderr


def test_without_a_cluster_one_line_says_how_to_start_one(cluster: RayHosts, model: Path) -> None:
    environment = {**cluster.environment, "RAY_ADDRESS": "127.0.0.1:1"}
    command = cluster.shoal("verify", str(model), "--split", "pp=2", "--cluster", "ray")
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100.0)
    assert done.returncode != 0
    assert "ray start --head" in done.stderr


def test_hidden_states_cannot_be_read_from_the_wire(cluster: RayHosts, model: Path, tmp_path: Path) -> None:
    """Every frame of them begins with the same bytes, which are on the wire where nothing hides them."""
    with captured(cluster.hosts[1], tmp_path / "wire"):
        done = cluster.run("run", str(model), "--split", "pp=2", "--prompt", "hello", "--max-tokens", "8", *OPTIONS)
    assert done.returncode == 0, done.stderr
    assert len((tmp_path / "wire").read_bytes()) > 20_000
    frame = b"".join(
        map(
            bytes,
            pack_activations(
                Activations(
                    step_id=StepId(1),
                    generation=Generation(0),
                    x_TD=np.zeros((1, 4), np.float32),
                    compute_s=(0.1,),
                    wait_s=(0.0,),
                )
            ),
        )
    )
    header = frame[:8]
    assert header.startswith(b"SHAV")
    assert header not in (tmp_path / "wire").read_bytes()


@pytest.mark.sample(every=2)
@pytest.mark.parametrize("precision", ["int8", "fp16"])
def test_narrower_hidden_states_say_nearly_the_same(precision: str, cluster: RayHosts, model: Path) -> None:
    options = ("--split", "pp=2", "--max-tokens", "4", "--json", "--link-precision", precision)
    done = cluster.run("verify", str(model), *options, *OPTIONS)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["link_precision"] == result["plan"]["link_precision"] == precision
    assert 0 < result["max_logit_difference"] < result["tolerance"]


def test_a_machine_that_lacks_the_model_is_sent_what_it_needs(cluster: RayHosts, model: Path) -> None:
    """The last host sees an empty folder where the model is."""
    lonely = cluster.only_here / "lonely.gguf"
    lonely.write_bytes(model.read_bytes())
    commands = [cluster.run("verify", str(lonely), "--split", "pp=3", "--max-tokens", "4", *OPTIONS) for _ in range(2)]
    for done in commands:
        assert done.returncode == 0, done.stderr
    assert "of the model that it lacked" in commands[0].stderr
    assert "of the model that it lacked" not in commands[1].stderr, "it has it from the first time"
