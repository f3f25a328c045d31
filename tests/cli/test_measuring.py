"""`shoal verify`, `shoal perplexity` and `shoal bench throughput`."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from shoal.verify import language as verification
from tests.cli.conftest import Shoal
from tests.model.tiny_models import CORPUS


@pytest.mark.parametrize("split", ["pp=2", "dp=2"])
def test_verify_agrees(shoal: Shoal, model: Path, split: str) -> None:
    arguments = ("--threads", 1, "--max-tokens", 8, "--json")
    value = shoal("verify", model, "--split", split, *arguments).json
    assert value["agrees"] is True
    assert value["token_agreement"] == 1.0
    assert value["max_logit_difference"] <= value["tolerance"]
    assert value["num_tokens"] == 8 * value["num_prompts"]
    assert len(value["plan"]["workers"]) == 2


def test_verify_without_json_says_it_on_stderr(shoal: Shoal, model: Path) -> None:
    result = shoal("verify", model, "--split", "pp=1:3", "--threads", 1, "--max-tokens", 4)
    assert (result.status, result.stdout) == (0, "")
    assert "agrees" in result.stderr


@pytest.mark.parametrize("what", ["a token", "a logit"])
def test_verify_ends_with_1_on_a_mismatch(
    shoal: Shoal, model: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = verification.compare

    def tampered(whole: list[Any], split: list[Any], *tolerances: float) -> verification.Verification:
        last = split[-1]
        if what == "a token":
            wrong = replace(last, token_ids=[*last.token_ids[:-1], (last.token_ids[-1] + 1) % 320])
        else:
            wrong = replace(last, logits=[*last.logits[:-1], bytes(len(last.logits[-1]))])
        return honest(whole, [*split[:-1], wrong], *tolerances)

    monkeypatch.setattr("shoal.cli.language.verify.compare", tampered)
    result = shoal("verify", model, "--split", "pp=2", "--threads", 1, "--max-tokens", 4)
    assert result.status == 1
    assert "MISMATCH" in result.stderr


def test_verify_chooses_a_split_where_none_is_given(shoal: Shoal, model: Path) -> None:
    result = shoal("verify", model, "--max-tokens", 4, "--threads", 1, "--json").json
    assert result["agrees"]
    assert result["plan"]["predicted"]["streams"] == 1


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(CORPUS)
    return path


def test_perplexity_is_the_same_for_every_split(shoal: Shoal, model: Path, text: Path) -> None:
    arguments = ("--text", text, "--window", 32, "--precision", "fp32", "--threads", 1, "--json")
    whole = shoal("perplexity", model, *arguments).json
    assert whole["perplexity"] > 1
    assert whole["targets"] == whole["windows"] * 31
    assert whole["windows"] >= 2
    split = shoal("perplexity", model, *arguments, "--split", "pp=2").json
    assert split["perplexity"] == pytest.approx(whole["perplexity"], rel=1e-4)


def test_perplexity_of_the_first_windows(shoal: Shoal, model: Path, text: Path) -> None:
    result = shoal("perplexity", model, "--text", text, "--window", 32, "--max-windows", 1, "--threads", 1)
    assert (result.status, result.stdout) == (0, "")
    assert "31 tokens in 1 windows" in result.stderr


def test_perplexity_of_what_is_no_long_enough_text(shoal: Shoal, model: Path, text: Path, tmp_path: Path) -> None:
    arguments = ("--threads", 1, "--json")
    assert "window" in shoal("perplexity", model, "--text", text, "--window", 500, *arguments).complaint
    assert "none.txt" in shoal("perplexity", model, "--text", tmp_path / "none.txt", *arguments).complaint
    binary = tmp_path / "binary.txt"
    binary.write_bytes(b"\xff\xfe\x00")
    assert "binary.txt" in shoal("perplexity", model, "--text", binary, *arguments).complaint


def test_perplexity_with_windows_beyond_the_context(shoal: Shoal, model: Path, tmp_path: Path) -> None:
    path = tmp_path / "long.txt"
    path.write_text(CORPUS * 10)
    complaint = shoal("perplexity", model, "--text", path, "--window", 600, "--threads", 1, "--json").complaint
    assert "512" in complaint


def test_throughput(shoal: Shoal, model: Path) -> None:
    sizes = ("--concurrency", 3, "--num-prompts", 4, "--prompt-tokens", 10, "--output-tokens", 5)
    value = shoal("bench", "throughput", model, *sizes, "--threads", 1, "--json").json
    assert (value["concurrency"], value["num_prompts"], value["output_tokens"]) == (3, 4, 5)
    assert 0 < value["output_tokens_per_s"] < value["total_tokens_per_s"]
    assert 0 < value["ttft_s"] <= value["ttft_p99_s"] <= value["duration_s"]
    assert 0 < value["tpot_s"] <= value["tpot_p99_s"]
    assert value["plan"]["max_seqs"] == 3


def test_throughput_beyond_the_context(shoal: Shoal, model: Path) -> None:
    sizes = ("--prompt-tokens", 600, "--output-tokens", 5, "--concurrency", 1)
    assert "512" in shoal("bench", "throughput", model, *sizes, "--threads", 1, "--json").complaint
