"""`shoal.LLM` with adapters, in processes of its own and with workers that die."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

import shoal
from shoal.api.generation import LLM
from shoal.errors import ConfigError, InvalidRequest, ModelLoadError
from shoal.executor.process.living_workers import worker_processes
from tests.integration.leaks import no_leaks
from tests.model.tiny_adapters import tiny_adapter, write_adapter
from tests.model.tiny_models import make_tiny_model

TIDE = "the tide"
LONG: dict[str, Any] = {"max_tokens": 100, "ignore_eos": True}
SHORT: dict[str, Any] = {"max_tokens": 20, "ignore_eos": True}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    model = make_tiny_model("llama", folder / "llama")
    for number, name in enumerate(("pirate", "lawyer")):
        tiny_adapter(model, folder / name, seed=number)
    return folder


def adapters(folder: Path) -> dict[str, Path]:
    return {name: folder / name for name in ("pirate", "lawyer")}


@pytest.fixture(scope="module")
def llm(folder: Path) -> Iterator[LLM]:
    with shoal.LLM(folder / "llama", split="1", threads=1, lora=adapters(folder)) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def expected(folder: Path) -> dict[str | None, list[int]]:
    """What models say that have an adapter in their weights, or none."""
    answers: dict[str | None, list[int]] = {}
    for name in (None, "pirate", "lawyer"):
        merged = None if name is None else folder / name
        with shoal.LLM(folder / "llama", split="1", threads=1, merge_lora=merged) as one:
            answers[name] = list(one.generate(TIDE, **SHORT).outputs[0].token_ids)
    return answers


@pytest.mark.parametrize("name", [None, "pirate", "lawyer"])
def test_a_call_says_which_adapter(llm: LLM, expected: dict[str | None, list[int]], name: str | None) -> None:
    assert llm.adapters == ("pirate", "lawyer")
    assert list(llm.generate(TIDE, adapter=name, **SHORT).outputs[0].token_ids) == expected[name]
    assert len({tuple(tokens) for tokens in expected.values()}) == 3


@pytest.mark.parametrize("split", ["pp=2", "tp=2", "dp=2"])
def test_splits(folder: Path, expected: dict[str | None, list[int]], split: str) -> None:
    with shoal.LLM(folder / "llama", split=split, threads=1, lora=adapters(folder), activations="exact") as loaded:
        for name, tokens in expected.items():
            assert list(loaded.generate(TIDE, adapter=name, **SHORT).outputs[0].token_ids) == tokens


def test_a_worker_that_is_killed_changes_no_word(llm: LLM, folder: Path) -> None:
    expected = llm.generate(TIDE, adapter="lawyer", **LONG).text
    before = set(worker_processes(psutil.Process()))
    options: dict[str, Any] = {"split": "pp=2", "threads": 1, "worker_timeout": 30.0}
    with no_leaks(), shoal.LLM(folder / "llama", lora=adapters(folder), **options) as split:
        stream = split.stream(TIDE, adapter="lawyer", **LONG)
        text = next(stream)
        workers = [child for child in worker_processes(psutil.Process()) if child not in before]
        workers[0].kill()
        assert text + "".join(stream) == expected


def test_names_that_are_not_there(llm: LLM) -> None:
    with pytest.raises(InvalidRequest, match="there is no adapter 'judge'; there is pirate, lawyer"):
        llm.generate(TIDE, adapter="judge")
    with pytest.raises(InvalidRequest, match="adapter is 3, but it must be a name"):
        llm.generate(TIDE, adapter=3)  # type: ignore[call-overload]


def test_adapters_that_do_not_fit(folder: Path, tmp_path: Path) -> None:
    other = write_adapter(tmp_path / "other", {"model.layers.0.self_attn.q_proj": (32, 64)})
    with pytest.raises(ModelLoadError, match="is for another model"):
        shoal.LLM(folder / "llama", split="1", lora={"other": other})
    with pytest.raises(ModelLoadError, match="adapter gone: there is no"):
        shoal.LLM(folder / "llama", split="1", lora={"gone": tmp_path / "gone"})
    with pytest.raises(ConfigError, match="every adapter needs a name"):
        shoal.LLM(folder / "llama", split="1", lora={"": other})


def test_the_form_without_the_extension_refuses_them(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOAL_NATIVE", "0")
    with pytest.raises(ConfigError, match="only by the native extension; merge one"):
        shoal.LLM(folder / "llama", split="1", lora=adapters(folder))
    with shoal.LLM(folder / "llama", split="1", merge_lora=folder / "pirate") as merged:
        assert merged.generate(TIDE, max_tokens=2).finish_reason == "length"


def shoal_command(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "shoal.cli.main", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_commands(folder: Path, expected: dict[str | None, list[int]], llm: LLM) -> None:
    loras = [word for name, path in adapters(folder).items() for word in ("--lora", f"{name}={path}")]
    options = ("--raw", "--prompt", TIDE, "--max-tokens", 20, "--split", "1", "--json")
    said = shoal_command("run", folder / "llama", *loras, "--adapter", "lawyer", *options)
    assert json.loads(said.stdout)["text"] == llm.generate(TIDE, adapter="lawyer", max_tokens=20).text
    verified = shoal_command("verify", folder / "llama", *loras, "--split", "tp=2", "--max-tokens", 8, "--json")
    assert json.loads(verified.stdout)["agrees"]
    unsaid = shoal_command("run", folder / "llama", *loras, *options)
    assert unsaid.stderr == "shoal: there are 2 adapters: choose one with --adapter pirate|lawyer\n"
    clash = shoal_command("serve", folder / "llama", "--port", 0, "--lora", f"llama={folder / 'pirate'}")
    assert clash.stderr.startswith("shoal: --lora llama=...: the model itself has that name")
    twice = shoal_command("run", folder / "llama", *loras, *loras, *options)
    assert "there is already an adapter named pirate" in twice.stderr
    assert [one.returncode for one in (said, verified, unsaid, clash, twice)] == [0, 0, 2, 2, 2]
