"""Files of others' formats against those formats' schemas: `make test-deploy` installs what holds them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
KUBERAY = ROOT / "deploy" / "kuberay"


@pytest.mark.parametrize(
    ("schema", "names"),
    [
        ("vendor.github-workflows", (".github/workflows/ci.yml", ".github/workflows/wheels.yml")),
        ("vendor.github-issue-forms", (".github/ISSUE_TEMPLATE/bug.yml", ".github/ISSUE_TEMPLATE/feature.yml")),
        ("vendor.compose-spec", ("compose.yaml",)),
    ],
)
def test_files_are_what_their_readers_take(schema: str, names: tuple[str, ...]) -> None:
    pytest.importorskip("check_jsonschema")
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, *names]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout


def objects() -> Iterator[dict[str, Any]]:
    """Of the manifests, and the pods that KubeRay makes of the cluster's templates."""
    yield from yaml.safe_load_all((KUBERAY / "service.yaml").read_text())
    spec = yaml.safe_load((KUBERAY / "raycluster.yaml").read_text())["spec"]
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        template = group["template"]
        pod = {"apiVersion": "v1", "kind": "Pod", "spec": template["spec"]}
        yield pod | {"metadata": {"name": group.get("groupName", "head"), **template["metadata"]}}


@pytest.mark.parametrize("manifest", [*objects()], ids=lambda one: f"{one['kind']}-{one['metadata']['name']}")
def test_kubernetes_takes_the_manifests(manifest: dict[str, Any]) -> None:
    kubernetes = pytest.importorskip("kubernetes_validate")
    kubernetes.validate(manifest, kubernetes.latest_version(), strict=True)
    broken = manifest | {"spec": {**manifest.get("spec", {}), "nonsense": 1}}
    with pytest.raises(kubernetes.ValidationError):
        kubernetes.validate(broken, kubernetes.latest_version(), strict=True)
