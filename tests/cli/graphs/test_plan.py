"""`shoal plan` and `--split auto` of ONNX graphs, with real measurements; their outcome is the machine's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml
from onnx import TensorProto, helper

from tests.cli.conftest import Shoal
from tests.executor.graphs import floats, save_graph, skip_chain
from tests.integration.leaks import no_leaks
from tests.model.tiny_models import make_tiny_gguf
from tests.plain_runtime import plain_session

KINDS = {"single", "replicas", "pipeline", "tensor", "mixed"}
WIDTH = 16


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One structure for the whole file, so that it is measured once."""
    return skip_chain(tmp_path_factory.mktemp("chain") / "chain.onnx", width=WIDTH)


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.npz"
    np.savez(path, x=np.random.default_rng(2).standard_normal((6, WIDTH), np.float32))
    return path


def expected(chain: Path, rows: Path) -> np.ndarray:
    return np.asarray(plain_session(chain).run(["y"], {"x": np.load(rows)["x"]})[0])


def test_the_choice_as_json_and_nothing_left_behind(shoal: Shoal, chain: Path) -> None:
    with no_leaks():
        value = shoal("plan", chain, "--json").json
    assert value["kind"] in KINDS
    assert {one["kind"] for one in value["alternatives"]} == KINDS - {value["kind"]}
    assert value["predicted"]["rows_per_s"] > 0
    assert value["predicted"]["latency_s"] > 0
    assert len(value["predicted"]["memory_bytes"]) == len(value["plan"]["workers"])
    assert value["predicted"]["rows_per_s"] <= value["bound_rows_per_s"]
    assert 0 <= value["gap"] < 1
    assert value["planning_s"] > 0
    assert all(one["rejected"] for one in value["alternatives"])


def test_a_person_reads_why_and_gets_a_file_to_run(shoal: Shoal, chain: Path, rows: Path, tmp_path: Path) -> None:
    file = tmp_path / "plan.yaml"
    result = shoal("plan", chain, "--objective", "throughput", "--explain", "-o", file)
    assert (result.status, result.stdout) == (0, "")
    for said in ("replica 0 stage 0", "rows/s", "(predicted)", "best of each kind, by throughput", "chosen", str(file)):
        assert said in " ".join(result.stderr.split())
    split = yaml.safe_load(file.read_text())["split"]
    value = shoal("run", chain, "--plan", file, "--inputs", rows, "-o", tmp_path / "y.npz", "--json").json
    assert value["plan"]["split"] == split
    assert value["rows_per_s"] > 0
    assert value["predicted"]["rows_per_s"] > 0
    np.testing.assert_allclose(np.load(tmp_path / "y.npz")["y"], expected(chain, rows), rtol=1e-5, atol=1e-6)


def test_auto_is_the_default_of_run_and_says_how_wrong_it_was(shoal: Shoal, chain: Path, rows: Path) -> None:
    result = shoal("run", chain, "--inputs", rows)
    assert result.status == 0
    assert "(predicted); it waits for" in result.stderr
    assert "6 rows in " in result.stderr
    assert " rows/s, predicted " in result.stderr


def test_auto_is_the_default_of_map_and_verify(shoal: Shoal, chain: Path, rows: Path, tmp_path: Path) -> None:
    value = shoal("map", chain, "--inputs", rows, "-o", tmp_path / "out", "--json").json
    assert (value["done"], value["failed"]) == (6, 0)
    assert value["predicted"]["rows_per_s"] > 0
    np.testing.assert_allclose(np.load(tmp_path / "out" / "y.npy"), expected(chain, rows), rtol=1e-5, atol=1e-6)
    assert shoal("verify", chain, "--json").json["agrees"] is True


def test_a_map_with_a_row_that_cannot_be_computed_is_planned_all_the_same(shoal: Shoal, tmp_path: Path) -> None:
    path = save_graph(
        tmp_path / "table.onnx",
        [helper.make_node("Gather", ["table", "i"], ["g"]), helper.make_node("Neg", ["g"], ["y"])],
        [helper.make_tensor_value_info("i", TensorProto.INT64, ["N"])],
        [floats("y", "N", 4)],
        {"table": np.arange(20, dtype=np.float32).reshape(5, 4)},
    )
    np.savez(tmp_path / "rows.npz", i=np.array([0, 99, 2]))
    result = shoal("map", path, "--inputs", tmp_path / "rows.npz", "-o", tmp_path / "out")
    assert result.status == 1
    assert "2 rows in " in result.stderr
    assert ", 1 failed" in result.stderr


def test_what_means_nothing_is_refused(shoal: Shoal, chain: Path, rows: Path, tmp_path: Path) -> None:
    for option in (("--streams", 4), ("--precision", "int8"), ("--link-precision", "fp16")):
        assert f"{option[0]} cannot be used with an ONNX graph" in shoal("plan", chain, *option).complaint
    for option in (("--idle-unload", 5), ("--max-loaded", 1)):
        assert f"{option[0]} cannot be used with ONNX graphs" in shoal("serve", chain, "--port", 0, *option).complaint
    model = make_tiny_gguf(tmp_path, quant="Q4_1")
    assert "--micro-batch cannot be used with a language model" in shoal("plan", model, "--micro-batch", 2).complaint
    file = tmp_path / "plan.yaml"
    file.write_text("shoal_plan: 2\nkind: graph\n")
    both = ("run", chain, "--inputs", rows, "--plan", file)
    assert "--plan takes the place of --split" in shoal(*both, "--split", "1").complaint
    assert "plan.yaml" in shoal(*both).complaint
    assert shoal("plan", chain).status == 0  # measures, and says so, if no test has before
    assert "within 1e-09 s" in shoal("plan", chain, "--latency-slo", 1e-9).complaint


def test_described_machines_are_planned(shoal: Shoal, chain: Path, tmp_path: Path) -> None:
    cluster = tmp_path / "machines.yaml"
    cluster.write_text(
        """
machines:
  - {name: big, cores: 8, memory: 1G, rates: {memory_bytes_per_s: 2e10, fp32_flops_per_s: 4e11}}
  - {name: small, count: 2, cores: 2, memory: 1G, rates: {memory_bytes_per_s: 1e10, fp32_flops_per_s: 1e11}}
link: {latency_s: 1e-4, bytes_per_s: 1e9}
"""
    )
    file = tmp_path / "plan.yaml"
    on_it = ("plan", chain, "--cluster", cluster)
    value = shoal(*on_it, "--objective", "throughput", "-o", file, "--json").json
    assert {worker["machine"] for worker in value["plan"]["workers"]} == {"big", "small-0", "small-1"}
    assert yaml.safe_load(file.read_text())["split"] == value["plan"]["split"]
    assert "big" in shoal(*on_it, "--explain").stderr
    assert "--threads is for this machine only" in shoal(*on_it, "--threads", 1).complaint
