"""What the source imports and what pyproject.toml declares are the same, for a plain install and for each extra."""

import ast
import re
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "shoal"
MODULES = {"grpcio": "grpc", "protobuf": "google", "pyyaml": "yaml"}
"""Packages whose module has another name."""
PLACES = {
    "grpc": ("server/oip/rpc/",),
    "parquet": ("offline/files/parquet_rows.py",),
    "ray": ("machines/ray/", "comm/tls/tls_identity.py"),
    "torch": ("model/graph/torch_export.py",),
}
"""Where the source may import what an extra brings."""
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def modules(requirements: list[str]) -> set[str]:
    """The modules that requirements bring."""
    names = [re.match(r"[\w-]+", requirement) for requirement in requirements]
    return {MODULES.get(name[0], name[0].replace("-", "_")) for name in names if name}


def imported(file: Path) -> set[str]:
    """Top-level names of what a file imports anywhere, other than itself and the standard library."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        match node:
            case ast.Import():
                names |= {alias.name for alias in node.names}
            case ast.ImportFrom(module=str(module)):
                names.add(module)
            case ast.Call(func=ast.Name(id="import_module"), args=[ast.Constant(value=str(name)), *_]):
                names.add(name)
            case _:
                pass
    return {name.partition(".")[0] for name in names} - sys.stdlib_module_names - {"shoal"}


FILES = {file.relative_to(SOURCE).as_posix(): imported(file) for file in SOURCE.rglob("*.py")}
PLAIN = modules(PROJECT["dependencies"])
EXTRAS = {name: modules(PROJECT["optional-dependencies"][name]) for name in PLACES}


def test_every_import_is_of_a_declared_package() -> None:
    undeclared: list[str] = []
    for file, names in FILES.items():
        allowed = PLAIN.union(*(EXTRAS[extra] for extra, places in PLACES.items() if file.startswith(places)))
        undeclared += [f"{file} imports {name}" for name in names - allowed]
    assert undeclared == []


@pytest.mark.parametrize("extra", [None, *PLACES])
def test_every_declared_package_is_imported(extra: str | None) -> None:
    declared = PLAIN if extra is None else EXTRAS[extra]
    assert declared
    assert declared <= set().union(*FILES.values())


def test_all_is_every_extra_but_the_weights_of_the_demo() -> None:
    extras = PROJECT["optional-dependencies"]
    assert extras["all"] == [f"shoal-inference[{','.join(sorted(set(extras) - {'all', 'demo'}))}]"]
    assert set(PLACES) == set(extras) - {"all", "demo"}
