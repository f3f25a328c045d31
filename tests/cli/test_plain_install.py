"""What `pip install shoal-inference` without extras can do, and what it says about the rest."""

import os
import pkgutil
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

import shoal as package
from shoal.errors import MissingExtra
from tests.cli.conftest import Shoal
from tests.model.graph.graph_cases import save_graph

pytestmark = pytest.mark.skipif(os.environ.get("SHOAL_PLAIN") != "1", reason="make test-plain runs it")
EXTRA_MODULES = ("av", "cryptography", "grpc", "matplotlib", "onnxscript", "opentelemetry", "pyarrow", "ray", "torch")
OF_EXTRAS = {("shoal.server.oip.rpc", "grpc"), ("shoal.server.tracing", "opentelemetry")}
"""Folders with modules that need what a plain install lacks."""


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    return save_graph(tmp_path, "agraph (float[N, 4] x) => (float[N, 4] y) { y = Add(x, x) }")


def test_the_package_under_test_is_the_wheel_and_no_extra_is_there() -> None:
    assert "site-packages" in Path(package.__file__).parts
    assert not [name for name in EXTRA_MODULES if find_spec(name) is not None]


def test_every_module_but_those_of_an_extra_can_be_imported() -> None:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} cannot be imported")

    missing: dict[str, str | None] = {}
    for module in pkgutil.walk_packages(package.__path__, "shoal.", onerror=refuse):
        try:
            import_module(module.name)
        except ModuleNotFoundError as error:
            missing[module.name] = error.name
    assert missing
    assert {(name.rpartition(".")[0], lacking) for name, lacking in missing.items()} == OF_EXTRAS


def test_a_graph_is_computed_from_python(graph: Path) -> None:
    with package.load(graph) as model:
        np.testing.assert_array_equal(model(np.ones((3, 4), np.float32))["y"], np.full((3, 4), 2.0))


def test_a_missing_extra_is_one_line(shoal: Shoal, graph: Path, model: Path, tmp_path: Path) -> None:
    rows = tmp_path / "rows.parquet"
    rows.write_bytes(b"")
    for extra, arguments in {
        "grpc": ("serve", graph, "--grpc-port", 0),
        "parquet": ("map", graph, "--inputs", rows, "-o", tmp_path / "out"),
        "ray": ("run", model, "--cluster", "ray", "--prompt", "x"),
    }.items():
        assert f"pip install 'shoal-inference[{extra}]'" in shoal(*arguments).complaint


def test_a_module_of_torch_needs_the_extra() -> None:
    with pytest.raises(MissingExtra, match=r"pip install 'shoal-inference\[torch\]'"):
        package.load(object(), example_inputs=np.ones((1, 4), np.float32))
