"""`shoal run`: one answer or a conversation."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import Shoal

SMALL = ("--threads", 1, "--max-tokens", 8)


def test_json_is_one_object_and_nothing_else(shoal: Shoal, model: Path) -> None:
    result = shoal("run", model, "--prompt", "A shoal is", "--json", *SMALL)
    value = result.json
    assert isinstance(value["text"], str)
    assert value["prompt_tokens"] > 3
    assert value["completion_tokens"] == 8
    assert value["finish_reason"] == "length"
    assert value["ttft_s"] > 0
    assert value["tokens_per_s"] > 0
    assert value["plan"]["split"] == "1"
    assert len(value["plan"]["workers"]) == 1
    assert result.stderr == ""


def test_text_goes_to_stdout_and_everything_else_to_stderr(shoal: Shoal, model: Path) -> None:
    text = shoal("run", model, "--prompt", "A shoal is", "--json", *SMALL).json["text"]
    result = shoal("run", model, "--prompt", "A shoal is", *SMALL)
    assert result.status == 0
    assert result.stdout == text + "\n"
    assert "replica 0 stage 0" in result.stderr
    assert "8 tokens" in result.stderr


def test_the_prompt_comes_from_stdin_where_none_is_given(shoal: Shoal, model: Path) -> None:
    given = shoal("run", model, "--prompt", "one\ntwo", "--json", *SMALL).json
    read = shoal("run", model, "--json", *SMALL, stdin="one\ntwo").json
    assert (read["text"], read["prompt_tokens"]) == (given["text"], given["prompt_tokens"])


def test_raw_takes_no_chat_template(shoal: Shoal, model: Path) -> None:
    chat = shoal("run", model, "--prompt", "the tide", "--json", *SMALL).json
    raw = shoal("run", model, "--prompt", "the tide", "--raw", "--json", *SMALL).json
    assert raw["prompt_tokens"] < chat["prompt_tokens"]


def test_a_seed_decides_what_is_drawn(shoal: Shoal, model: Path) -> None:
    def text(seed: int) -> str:
        arguments = ("--temperature", 1.5, "--seed", seed, "--json", *SMALL)
        return shoal("run", model, "--prompt", "the tide", *arguments).json["text"]

    assert text(1) == text(1)
    assert len({text(seed) for seed in range(4)}) > 1


def test_an_answer_ends_before_a_stop_text(shoal: Shoal, model: Path) -> None:
    whole = shoal("run", model, "--prompt", "the tide", "--json", *SMALL).json
    stop = whole["text"][5:8]
    cut = shoal("run", model, "--prompt", "the tide", "--json", "--stop", "no such text", "--stop", stop, *SMALL).json
    assert cut["text"] == whole["text"][: whole["text"].index(stop)]
    assert cut["finish_reason"] == "stop"
    assert cut["completion_tokens"] <= whole["completion_tokens"]


def test_a_system_message_comes_first(shoal: Shoal, model: Path) -> None:
    def num_prompt_tokens(*arguments: str) -> int:
        return shoal("run", model, "--prompt", "the tide", "--json", *arguments, *SMALL).json["prompt_tokens"]

    assert num_prompt_tokens("--system", "Be brief.") > num_prompt_tokens()


def test_top_k_of_one_is_greedy(shoal: Shoal, model: Path) -> None:
    def text(*arguments: object) -> str:
        return shoal("run", model, "--prompt", "the tide", "--json", *arguments, *SMALL).json["text"]

    assert text("--temperature", 1.5, "--top-k", 1) == text() == text("--temperature", 1.5, "--min-p", 1.0)
    assert text("--frequency-penalty", 2, "--presence-penalty", 2) != text()


def test_a_split_run_says_the_same(shoal: Shoal, model: Path) -> None:
    arguments = ("--precision", "fp32", "--json", *SMALL)
    whole = shoal("run", model, "--prompt", "the tide", *arguments).json
    split = shoal("run", model, "--prompt", "the tide", "--split", "pp=2", *arguments).json
    assert split["text"] == whole["text"]
    assert [worker["stage"] for worker in split["plan"]["workers"]] == [0, 1]


def test_more_workers_than_cores_is_a_warning(shoal: Shoal, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0})
    result = shoal("run", model, "--prompt", "x", "--split", "pp=2", "--json", *SMALL)
    assert result.json["completion_tokens"] == 8
    assert result.stderr.startswith("warning: 2 workers")


def test_a_conversation_remembers(shoal: Shoal, model: Path) -> None:
    once = shoal("run", model, "--chat", *SMALL, stdin="the tide\n")
    twice = shoal("run", model, "--chat", *SMALL, stdin="the tide\n\nthe tide\n")
    assert once.status == twice.status == 0
    assert twice.stdout.startswith(once.stdout)
    assert twice.stdout != 2 * once.stdout
    assert len(twice.stdout) > len(once.stdout)


def test_as_a_program(model: Path) -> None:
    """The whole way from the shell: exit status, both streams, no traceback."""
    command = [sys.executable, "-m", "shoal.cli.main", "run", str(model.with_name("none.gguf")), "--prompt", "x"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=250, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert "none.gguf" in done.stderr
