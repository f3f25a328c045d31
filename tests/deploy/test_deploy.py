"""Files for those who run Shoal as a service name options, metrics and commands that exist."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from typer.main import get_command

from shoal.cli.main import app
from shoal.core.plan.language import PredictedSpeed
from shoal.server.generation.metrics import ServerMetrics
from tests.server.fakes import FakeEngine
from tests.server.oip.running import run_server

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
PREDICTED = PredictedSpeed(streams=8, prompt_tokens=1, output_tokens=1, output_tokens_per_s=1.0, ttft_s=1.0, tpot_s=1.0)


needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="needs promtool, of Debian's package prometheus"
)


@pytest.fixture(scope="module")
def pages() -> tuple[str, str]:
    """`/metrics` of a server of a language model, and of one of graphs."""
    metrics = ServerMetrics("tiny", PREDICTED)
    metrics.read_engine(FakeEngine().stats())
    metrics.count_refusal("queue_full")
    metrics.count_end("stop")
    language = metrics.expose().decode()
    with run_server() as running, httpx.Client(base_url=running.url, timeout=30) as http:
        graph = http.get("/metrics").text
    return language, graph


@pytest.fixture(scope="module")
def exposed(pages: tuple[str, str]) -> set[str]:
    """Names of all samples."""
    return {name for text in pages for name in re.findall(r"^(?:# TYPE )?(shoal:\w+)", text, re.MULTILINE)}


def _expressions(board: dict[str, Any]) -> Iterator[str]:
    for panel in board["panels"]:
        yield from (target["expr"] for target in panel.get("targets", ()))
    yield from (variable["query"] for variable in board["templating"]["list"])


def test_the_board_shows_metrics_that_exist(exposed: set[str]) -> None:
    board = json.loads((DEPLOY / "grafana" / "shoal.json").read_text())
    named = {name for text in _expressions(board) for name in re.findall(r"shoal:\w+", text)}
    assert len(named) > 20
    assert named <= exposed


def test_the_rules_watch_metrics_that_exist(exposed: set[str]) -> None:
    groups = yaml.safe_load((DEPLOY / "prometheus" / "rules.yaml").read_text())["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    named = {name for rule in rules for name in re.findall(r"shoal:\w+", rule["expr"])}
    assert len(named) >= 8
    assert named <= exposed


@needs_promtool
def test_prometheus_reads_the_metrics(pages: tuple[str, str]) -> None:
    """It would have other names: a colon marks Shoal's as one marks vLLM's, and those of graphs are Triton's."""
    is_known = re.compile(r"shoal:inference_\w+ .*|shoal:\w+ metric names should not contain ':'")
    for text in pages:
        done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True, timeout=60)
        complaints = (done.stdout + done.stderr).splitlines()
        assert complaints, "names have colons"
        assert [line for line in complaints if line and not is_known.fullmatch(line)] == []


@needs_promtool
def test_prometheus_reads_the_expressions_of_the_board(tmp_path: Path) -> None:
    board = json.loads((DEPLOY / "grafana" / "shoal.json").read_text())
    queries = [target["expr"] for panel in board["panels"] for target in panel.get("targets", ())]
    rules = [
        {"record": f"panel:{index}", "expr": query.replace("$__rate_interval", "5m")}
        for index, query in enumerate(queries)
    ]
    file = tmp_path / "board.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "board", "rules": rules}]}))
    done = subprocess.run(["promtool", "check", "rules", str(file)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert f"{len(rules)} rules found" in done.stdout


@needs_promtool
def test_the_rules_fire_when_they_should() -> None:
    subprocess.run(
        ["promtool", "check", "config", "prometheus.yaml"], cwd=DEPLOY / "prometheus", check=True, timeout=60
    )
    subprocess.run(["promtool", "test", "rules", "rules_test.yaml"], cwd=DEPLOY / "prometheus", check=True, timeout=60)


def _served() -> Iterator[str]:
    """Every call of `shoal serve` in these files."""
    compose = yaml.safe_load((ROOT / "compose.yaml").read_text())
    yield from (text for service in compose["services"].values() for text in service["command"])
    yield (DEPLOY / "shoal.service").read_text()
    yield (DEPLOY / "kuberay" / "raycluster.yaml").read_text()


def test_commands_have_the_options_that_are_given() -> None:
    serve = get_command(app).commands["serve"]  # type: ignore[attr-defined]  # a group has commands
    options = {name for parameter in serve.params for name in parameter.opts}
    calls = [call for text in _served() for call in re.findall(r"shoal (serve .*)", text.replace("\\\n", " "))]
    assert len(calls) == 3
    for call in calls:
        given = {word for word in shlex.split(call) if word.startswith("--")}
        assert "--config" in given
        assert given <= options


def test_options_in_files_exist() -> None:
    serve = get_command(app).commands["serve"]  # type: ignore[attr-defined]  # a group has commands
    names = {parameter.name for parameter in serve.params}
    manifests = list(yaml.safe_load_all((DEPLOY / "kuberay" / "service.yaml").read_text()))
    texts = [(DEPLOY / "serve.yaml").read_text(), manifests[0]["data"]["serve.yaml"]]
    for text in texts:
        assert {key.replace("-", "_") for key in yaml.safe_load(text)} <= names


def test_containers_run_the_version_of_ray_that_is_pinned() -> None:
    cluster = yaml.safe_load((DEPLOY / "kuberay" / "raycluster.yaml").read_text())
    assert f'"ray=={cluster["spec"]["rayVersion"]}"' in (ROOT / "pyproject.toml").read_text()


@pytest.mark.parametrize("name", ["Dockerfile", "compose.yaml"])
def test_no_file_supposes_a_processor(name: str) -> None:
    assert not re.search(r"amd64|x86_64|--platform", (ROOT / name).read_text())
