"""`shoal simulate`: a cluster that is only described, a model of which only the settings are there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.cli.conftest import Shoal
from tests.model.formats.test_settings_only import write_settings

MACHINES = """
machines:
  - name: server
    count: 3
    cores: 32
    memory: 64G
    rates: {memory_bytes_per_s: 1.5e11, fp32_flops_per_s: 1.5e12}
    price_per_hour: 1.5
link: {latency_s: 1e-4, bytes_per_s: 1.25e9}
"""
SMALL = {"hidden_size": 512, "intermediate_size": 1024, "num_hidden_layers": 4, "vocab_size": 1024}
TWO_SECONDS = 2 / 86400


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_settings(tmp_path / "config.json", **SMALL)


@pytest.fixture
def machines(tmp_path: Path) -> Path:
    path = tmp_path / "machines.yaml"
    path.write_text(MACHINES)
    return path


def test_settings_are_enough(shoal: Shoal, model: Path, machines: Path) -> None:
    command = ("simulate", model, "--cluster", machines, "--traffic", "poisson:30", "--days", TWO_SECONDS, "--json")
    found = shoal(*command).json
    assert found["num_requests"] == pytest.approx(60, abs=25)
    assert (found["num_lost"], found["num_refused"]) == (0, 0)
    assert found["output_tokens"] == 64 * found["num_requests"]
    cost = len(found["busy_share"]) * 1.5 / 3600 * found["duration_s"] / found["output_tokens"] * 1e6
    assert found["cost_per_million_output_tokens"] == pytest.approx(cost)
    assert shoal(*command).json == found
    assert shoal(*command, "--seed", 1).json != found


def test_a_person_sees_a_table(shoal: Shoal, model: Path, machines: Path, tmp_path: Path) -> None:
    faults = tmp_path / "faults.yaml"
    faults.write_text("faults: [{at_s: 0.5, machine: server-0, kind: kill}]")
    arguments = ("--cluster", machines, "--traffic", "closed:4", "--split", "pp=3", "--faults", faults)
    result = shoal("simulate", model, *arguments, "--days", TWO_SECONDS)
    assert result.status == 0, result.stderr
    assert "split pp=" in result.stdout
    assert "time to first token" in result.stdout
    assert "requests lost: 0" in result.stdout
    assert "losses of a replica's workers: 1, the longest without workers for" in result.stdout
    assert "per million output tokens" in result.stdout


def test_a_day_is_sampled(shoal: Shoal, model: Path, machines: Path) -> None:
    command = ("simulate", model, "--cluster", machines, "--traffic", "poisson:10", "--days", 1, "--sample", 10)
    found = shoal(*command, "--json").json
    assert found["sample"]["simulated_share"] < 0.01
    assert found["num_requests"] == pytest.approx(864_000, rel=0.01)
    assert found["duration_s"] == pytest.approx(86_400, rel=0.01)
    within = found["sample"]["e2e"]["p95_s"]
    assert within["low"] <= found["e2e"]["p95_s"] <= within["high"]
    told = shoal(*command).stdout
    assert "of 1 steady states a part stands for the rest" in told
    assert " to " in told


def test_a_trace_is_planned_for_and_run(shoal: Shoal, model: Path, machines: Path) -> None:
    trace = Path(__file__).parents[3] / "examples" / "traffic.csv"
    found = shoal("simulate", model, "--cluster", machines, "--traffic", trace, "--json").json
    assert found["num_requests"] == len(trace.read_text().splitlines()) - 1
    assert found["num_lost"] == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--traffic", "poisson:x"), "give poisson:RATE with a number of requests a second"),
        (("--traffic", "poisson:1e9"), "a second above 0 and below 1e+06"),
        (("--traffic", "closed:0"), "give closed:N with a number of clients from 1 to 1000000"),
        (("--traffic", "closed:" + 5000 * "9"), "--traffic closed:999"),
        (("--traffic", "poisson:1e5"), "makes 60 million requests in 600 s"),
        (("--traffic", "nowhere.csv"), "no such file"),
        (("--traffic", "poisson:1", "--days", "-1"), "--days is -1"),
        (("--traffic", "closed:1", "--split", "pp=4"), "4 workers, but the file has 3 machines"),
        (("--traffic", "closed:1", "--plot", "x.txt"), "--plot x.txt: use a name that ends in .png"),
        (("--traffic", "poisson:1", "--sample", "0"), "--sample 0: give a percentage from 0.1 to 50"),
        (("--traffic", "closed:1", "--sample", "5"), "only poisson:RATE has steady states"),
        (("--traffic", "poisson:1", "--sample", "5", "--plot", "x.png"), "give only one of them"),
        (("--traffic", "closed:1", "--cluster", "ray"), "describe its machines in a file"),
    ],
)
def test_what_makes_no_sense_gets_one_line(
    shoal: Shoal, model: Path, machines: Path, arguments: tuple[str, ...], said: str
) -> None:
    cluster = () if "--cluster" in arguments else ("--cluster", machines)
    assert said in shoal("simulate", model, *cluster, *arguments).complaint


def test_refused_requests_are_told_with_their_reason(shoal: Shoal, model: Path, machines: Path) -> None:
    arguments = ("--cluster", machines, "--traffic", "poisson:30", "--days", TWO_SECONDS, "--prompt-tokens", 1_000_000)
    said = shoal("simulate", model, *arguments).stdout
    assert "requests lost: 0; refused: " in said
    assert "the first of the refused requests: the prompt has 1000000 tokens" in said


def test_a_fault_after_the_last_request_is_warned_of(shoal: Shoal, model: Path, machines: Path, tmp_path: Path) -> None:
    faults = tmp_path / "faults.yaml"
    faults.write_text(
        "faults: [{at_s: 0.5, machine: server-0, kind: cable}, {at_s: 1e6, machine: server-0, kind: return},"
        " {at_s: 2e6, machine: server-1, kind: kill}]"
    )
    arguments = ("--cluster", machines, "--traffic", "closed:1", "--split", "dp=3", "--days", TWO_SECONDS, "--json")
    result = shoal("simulate", model, *arguments, "--faults", faults)
    assert result.status == 0
    assert result.stderr.startswith("warning: 1 of 3 faults come after the last request has ended, at ")
    assert result.stderr.endswith("the first of them at 2000000.0 s\n")


def test_a_fault_that_names_no_machine_of_the_plan(shoal: Shoal, model: Path, machines: Path, tmp_path: Path) -> None:
    faults = tmp_path / "faults.yaml"
    faults.write_text("faults: [{at_s: 0, machine: sever-0, kind: kill}]")
    said = shoal("simulate", model, "--cluster", machines, "--traffic", "closed:1", "--faults", faults).complaint
    assert "fault 1: the plan uses no machine sever-0 (did you mean server-0?)" in said


def test_latencies_are_drawn(shoal: Shoal, model: Path, machines: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    picture = tmp_path / "out.png"
    arguments = ("--traffic", "poisson:30", "--days", TWO_SECONDS, "--plot", picture)
    assert shoal("simulate", model, "--cluster", machines, *arguments).status == 0
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_what_was_simulated_is_told_also_where_it_cannot_be_drawn(
    shoal: Shoal, model: Path, machines: Path, tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib")
    picture = tmp_path / "latencies.svg"
    picture.with_name("latencies.svg.part").mkdir()
    command = ("simulate", model, "--cluster", machines, "--traffic", "poisson:30", "--days", TWO_SECONDS)
    result = shoal(*command, "--plot", picture)
    assert result.status == 2
    assert "requests lost: 0" in result.stdout
    assert f"cannot write {picture}" in result.stderr
    assert not picture.exists()


def test_a_folder_whose_name_is_no_text(shoal: Shoal, machines: Path, tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"m\xff")
    folder.mkdir()
    write_settings(folder / "config.json", **SMALL)
    traffic = ("--cluster", machines, "--traffic", "poisson:30", "--days", TWO_SECONDS)
    assert f"{tmp_path}/m\\udcff  split" in shoal("simulate", folder, *traffic).stdout
