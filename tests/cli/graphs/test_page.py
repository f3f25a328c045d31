"""`shoal serve` for a graph shows how it was planned on its page."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from shoal.cli.graphs.plan_book import GraphPlanBook
from shoal.errors import ConfigError
from shoal.planner.what_if import Change
from tests.executor.graphs import skip_chain


def test_the_page_tells_what_the_plan_was_chosen_from(tmp_path: Path) -> None:
    chain = skip_chain(tmp_path / "chain.onnx", width=512)  # so wide that workers take longer than the head
    command = [sys.executable, "-m", "shoal.cli.main", "serve", str(chain), "--split", "auto", "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            url = next(line for line in process.stderr if line.startswith("serving ")).split()[-1].removesuffix("/v2")
            assert "<script" in httpx.get(url, timeout=30).text
            (model,) = httpx.get(f"{url}/status/page", timeout=30).json()["models"]
            (shown,) = httpx.get(f"{url}/status", timeout=30).json()["models"]
            ask = {"model": "chain", "change": "add", "like": "this machine"}
            twice = httpx.post(f"{url}/status/what-if", json=ask, timeout=60).json()
        finally:
            process.kill()
    assert (model["name"], model["machines"]) == ("chain", ["this machine"])
    assert twice["predicted"]["rows_per_s"] > model["choice"]["predicted"]["rows_per_s"]
    assert "of one more" in twice["split"]
    assert model["choice"]["plan"]["split"] == shown["plan"]["split"]
    assert len(model["choice"]["alternatives"]) == 4


def test_of_a_graph_whose_split_was_given_nothing_is_known() -> None:
    book = GraphPlanBook()
    book.note("chain", None)
    assert book.choice("chain") is None
    with pytest.raises(ConfigError, match="serve with --split auto"):
        book.what_if("chain", Change(kind="links"))
