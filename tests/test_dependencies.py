"""What the source imports and what pyproject.toml declares are the same, for a plain install and for each extra."""

import ast
import re
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "shoal"
MODULES = {
    "grpcio": "grpc",
    "opentelemetry-exporter-otlp-proto-http": "opentelemetry",
    "opentelemetry-instrumentation-asgi": "opentelemetry",
    "opentelemetry-sdk": "opentelemetry",
    "pillow": "PIL",
    "protobuf": "google",
    "pyyaml": "yaml",
}
"""Packages whose module has another name."""
PLACES = {
    "chains": ("chains/", "server/oip/chains/", "server/bodies/forms.py"),
    "grpc": ("server/oip/rpc/",),
    "otel": ("server/tracing/",),
    "parquet": ("offline/files/parquet_rows.py",),
    "plot": ("cli/show/simulation_plot.py",),
    "ray": ("machines/ray/", "comm/tls/tls_identity.py"),
    "speech": ("speech/sound/audio.py", "server/bodies/forms.py"),
    "torch": ("model/graph/torch_export.py",),
    "vision": ("model/vision/pixels.py",),
}
"""Where the source may import what an extra brings."""
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def required(requirement: str) -> str:
    """The name of the package that a requirement is of, as indexes spell it."""
    return re.split(r"[\[<>=!~; ]", requirement)[0].lower().replace("_", "-")


def modules(requirements: list[str]) -> set[str]:
    """The modules that requirements bring."""
    return {MODULES.get(name, name.replace("-", "_")) for name in map(required, requirements)}


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


@cache
def imports_of_files() -> dict[str, set[str]]:
    """What each source file imports: parsed where a test asks, because it takes longer than a second."""
    return {file.relative_to(SOURCE).as_posix(): imported(file) for file in SOURCE.rglob("*.py")}


PLAIN = modules(PROJECT["dependencies"])
EXTRAS = {name: modules(PROJECT["optional-dependencies"][name]) for name in PLACES}


def test_every_import_is_of_a_declared_package() -> None:
    undeclared: list[str] = []
    for file, names in imports_of_files().items():
        allowed = PLAIN.union(*(EXTRAS[extra] for extra, places in PLACES.items() if file.startswith(places)))
        undeclared += [f"{file} imports {name}" for name in names - allowed]
    assert undeclared == []


@pytest.mark.parametrize("extra", [None, *PLACES])
def test_every_declared_package_is_imported(extra: str | None) -> None:
    declared = PLAIN if extra is None else EXTRAS[extra]
    assert declared
    assert declared <= set().union(*imports_of_files().values())


def test_all_is_every_extra_but_the_weights_of_the_demo() -> None:
    extras = PROJECT["optional-dependencies"]
    assert extras["all"] == [f"shoal-inference[{','.join(sorted(set(extras) - {'all', 'demo'}))}]"]
    assert set(PLACES) == set(extras) - {"all", "demo"}


def test_the_lock_file_is_of_this_pyproject() -> None:
    packages = tomllib.loads((ROOT / "uv.lock").read_text())["package"]
    (own,) = [package for package in packages if package["name"] == PROJECT["name"]]
    locked: dict[str, set[str]] = {}
    for requirement in own["metadata"]["requires-dist"]:
        extra = re.search(r"extra == '(\w+)'", requirement.get("marker", ""))
        locked.setdefault(extra[1] if extra else "", set()).add(requirement["name"])
    declared = {"": PROJECT["dependencies"], **PROJECT["optional-dependencies"]}
    expected = {name: {required(requirement) for requirement in group} for name, group in declared.items()}
    assert locked == expected, "uv.lock is stale; run: uv lock"
