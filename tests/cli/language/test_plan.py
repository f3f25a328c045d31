"""`shoal plan` for machines that a file describes, also without the model's weights."""

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Shoal
from tests.model.formats.test_settings_only import write_settings

MACHINES = """
machines:
  - {name: server, count: 3, cores: 32, memory: 64G, rates: {memory_bytes_per_s: 1.5e11, fp32_flops_per_s: 1.5e12}}
link: {latency_s: 1e-4, bytes_per_s: 1.25e9}
"""
SMALL = {"hidden_size": 512, "intermediate_size": 1024, "num_hidden_layers": 4, "vocab_size": 1024}


@pytest.fixture
def machines(tmp_path: Path) -> Path:
    path = tmp_path / "machines.yaml"
    path.write_text(MACHINES)
    return path


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    (tmp_path / "model").mkdir()
    return write_settings(tmp_path / "model" / "config.json", **SMALL)


def test_settings_alone_are_planned_as_a_file_or_a_folder(shoal: Shoal, settings: Path, machines: Path) -> None:
    of_file = shoal("plan", settings, "--cluster", machines, "--json").json
    of_folder = shoal("plan", settings.parent, "--cluster", machines, "--json").json
    assert {worker["machine"] for worker in of_file["plan"]["workers"]} <= {"server-0", "server-1", "server-2"}
    for choice in (of_file, of_folder):
        del choice["planning_s"]
    assert of_file == of_folder
    all_three = ["server-0", "server-1", "server-2"]
    assert of_file["links"] == [{"from": all_three, "to": all_three, "latency_s": 1e-4, "bytes_per_s": 1.25e9}]


@pytest.mark.parametrize("is_file", [True, False])
def test_measuring_needs_the_weights(shoal: Shoal, settings: Path, machines: Path, is_file: bool) -> None:
    model = settings if is_file else settings.parent
    local = machines.with_name("here.yaml")
    local.write_text("machines: [{name: here, cpus: [0]}]")
    said = "measuring and running need the weights; without them, only `shoal plan MODEL --cluster FILE` works"
    assert said in shoal("plan", model).complaint
    assert said in shoal("plan", model, "--cluster", local).complaint
    assert said in shoal("profile", model).complaint
    assert said in shoal("run", model, "--prompt", "x", "--cluster", machines).complaint


def test_settings_that_are_wrong(shoal: Shoal, settings: Path, machines: Path) -> None:
    settings.write_text(json.dumps({"model_type": "llama", "num_hidden_layers": 10**12}))
    assert "num_hidden_layers" in shoal("plan", settings, "--cluster", machines).complaint


def test_a_plan_is_written_whole_or_not_at_all(shoal: Shoal, settings: Path, machines: Path, tmp_path: Path) -> None:
    output = tmp_path / "plan.yaml"
    command = ("plan", settings, "--cluster", machines, "--json", "-o")
    output.with_name("plan.yaml.part").mkdir()
    assert f"cannot write {output}" in shoal(*command, output).complaint
    assert not output.exists()
    output.with_name("plan.yaml.part").rmdir()
    assert shoal(*command, output).status == 0
    assert "server-0" in output.read_text()
    assert "No space left" in shoal(*command, "/dev/full").complaint
