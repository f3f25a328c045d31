"""What cannot be done gets exit status 2 and one line that names the thing."""

import os
from pathlib import Path

import pytest

from tests.cli.conftest import Shoal
from tests.model.tiny_models import tiny_llama_tensors, write_gguf


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--split", "cp=2"], "cp=2"),
        (["--split", "pp=5"], "pp=4"),
        (["--split", "pp=3:3"], "pp=3:3"),
        (["--split", "dp=0"], "dp=0"),
        (["--precision", "int3"], "int3"),
        (["--max-tokens", "0"], "--max-tokens"),
        (["--max-tokens", "-3"], "--max-tokens"),
        (["--max-tokens", "many"], "--max-tokens"),
        (["--temperature", "nan"], "--temperature is nan"),
        (["--top-p", "nan"], "--top-p is nan"),
        (["--threads", "0"], "--threads"),
        (["--temperature", "-1"], "--temperature"),
        (["--top-p", "0"], "--top-p"),
        (["--top-k", "-1"], "--top-k"),
        (["--min-p", "1.5"], "--min-p"),
        (["--presence-penalty", "3"], "--presence-penalty"),
        (["--stop", ""], "--stop"),
        (["--system", "x", "--raw"], "--system"),
        (["--seed", "-1"], "--seed"),
        (["--seed", str(2**63)], "--seed"),
        (["--kv-memory", "lots"], "--kv-memory"),
        (["--kv-memory", "1K"], "--kv-memory"),
        (["--max-context", "1"], "--max-context"),
        (["--frobnicate"], "--frobnicate"),
        (["--chat"], "--chat"),
    ],
    ids=" ".join,
)
def test_options(shoal: Shoal, model: Path, arguments: list[str], named: str) -> None:
    assert named in shoal("run", model, "--prompt", "x", "--threads", 1, "--json", *arguments).complaint


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--request-rate", "2", "--concurrency", "4"], "exclude each other"),
        (["--request-rate", "fast"], "--request-rate"),
        (["--request-rate", "0"], "--request-rate"),
        (["--request-rate", "2,inf"], "--request-rate"),
        (["--concurrency", "1.5"], "--concurrency"),
        (["--concurrency", "0"], "--concurrency"),
    ],
    ids=" ".join,
)
def test_loads(shoal: Shoal, arguments: list[str], named: str) -> None:
    url = ("--base-url", "http://127.0.0.1:1", "--model", "m")
    assert named in shoal("bench", "serve", *url, "--json", *arguments).complaint


def test_a_rule_for_routing(shoal: Shoal, model: Path) -> None:
    complaint = shoal("serve", model, "--port", 0, "--routing", "random").complaint
    assert "unknown routing 'random': use one of earliest-finish, round-robin" in complaint


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_times_that_never_come(shoal: Shoal, model: Path, value: str) -> None:
    for option in ("--drain-timeout", "--worker-timeout", "--request-timeout"):
        complaint = shoal("serve", model, "--port", 0, option, value).complaint
        assert f"{option} is {value}, but must be a finite number" in complaint


@pytest.mark.parametrize("option", ["--prompt-tokens", "--output-tokens"])
def test_requests_that_no_model_takes(shoal: Shoal, option: str) -> None:
    complaint = shoal("simulate", "config.json", "--traffic", "poisson:1", option, 10**12).complaint
    assert option in complaint


def test_a_drawing_without_a_folder_is_refused_before_anything_is_simulated(shoal: Shoal, tmp_path: Path) -> None:
    plot = tmp_path / "none" / "x.png"
    complaint = shoal("simulate", "config.json", "--traffic", "poisson:1", "--plot", plot).complaint
    assert f"there is no folder {plot.parent}" in complaint


def test_transcripts_that_would_be_written_over_each_other(shoal: Shoal, tmp_path: Path) -> None:
    for name in ("talk.mp3", "talk.wav"):
        (tmp_path / name).touch()
    sounds = (tmp_path / "talk.mp3", tmp_path / "talk.wav")
    complaint = shoal("transcribe", "whisper", *sounds, "-o", tmp_path / "out").complaint
    assert "talk.mp3" in complaint
    assert "both be written as talk" in complaint


def test_a_missing_model(shoal: Shoal, tmp_path: Path) -> None:
    assert "none.gguf" in shoal("run", tmp_path / "none.gguf", "--prompt", "x").complaint


@pytest.mark.parametrize("name", ["pkg:no_such_package", "pkg:", "hf:alone", "hf:a/b/c", "", "model.bin"])
def test_names_that_are_no_models(shoal: Shoal, name: str) -> None:
    complaint = shoal("run", name, "--prompt", "x").complaint
    assert name.removeprefix("pkg:") in complaint


@pytest.mark.parametrize("kept_bytes", [0, 3, 8, 100, 5000, -100])
def test_a_truncated_model(shoal: Shoal, model: Path, tmp_path: Path, kept_bytes: int) -> None:
    path = tmp_path / "short.gguf"
    path.write_bytes(model.read_bytes()[:kept_bytes])
    assert "short.gguf" in shoal("run", path, "--prompt", "x").complaint


def test_files_that_are_no_models(shoal: Shoal, tmp_path: Path) -> None:
    text = tmp_path / "text.gguf"
    text.write_text("To be, or not to be")
    assert "text.gguf" in shoal("run", text, "--prompt", "x").complaint
    directory = tmp_path / "directory"
    directory.mkdir()
    assert "config.json" in shoal("run", directory, "--prompt", "x").complaint


def test_an_unknown_architecture(shoal: Shoal, tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "odd.gguf", "hieroglyphs", tiny_llama_tensors())
    assert "hieroglyphs" in shoal("run", path, "--prompt", "x").complaint


def test_a_missing_tensor(shoal: Shoal, tmp_path: Path) -> None:
    tensors = {name: values for name, values in tiny_llama_tensors().items() if name != "blk.2.attn_norm.weight"}
    path = write_gguf(tmp_path / "holed.gguf", "llama", tensors)
    for split in ("1", "pp=2"):
        complaint = shoal("run", path, "--prompt", "x", "--split", split, "--threads", 1, "--json").complaint
        assert "blk.2.attn_norm.weight" in complaint


def test_a_prompt_longer_than_the_context(shoal: Shoal, model: Path) -> None:
    complaint = shoal("run", model, "--prompt", "tide " * 600, "--threads", 1, "--json").complaint
    assert "512" in complaint


def test_a_prompt_longer_than_the_kv_memory(shoal: Shoal, model: Path) -> None:
    arguments = ("--kv-memory", "64K", "--threads", 1, "--json")
    assert "--kv-memory" in shoal("run", model, "--prompt", "tide " * 100, *arguments).complaint


def test_an_empty_prompt(shoal: Shoal, model: Path) -> None:
    assert "prompt" in shoal("run", model, "--json", stdin="").complaint
    assert "prompt" in shoal("run", model, "--prompt", "", "--json").complaint


@pytest.mark.parametrize("arguments", [[], ["--prompt", "caf\udce9"]], ids=["stdin", "argument"])
def test_a_prompt_that_is_not_utf8(shoal: Shoal, model: Path, arguments: list[str]) -> None:
    assert "UTF-8" in shoal("run", model, "--json", *arguments, stdin=b"caf\xe9").complaint


def test_a_model_that_needs_more_memory_than_there_is(
    shoal: Shoal, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Little:
        available = 100_000

    monkeypatch.setattr("psutil.virtual_memory", Little)
    complaint = shoal("run", model, "--prompt", "x", "--kv-memory", "64K", "--split", "1").complaint
    assert "workers" in complaint
    assert "MiB" in complaint


def test_commands_that_do_not_exist(shoal: Shoal) -> None:
    assert "frobnicate" in shoal("frobnicate").complaint
    assert "model" in shoal("run").complaint


@pytest.mark.parametrize("command", [[], ["run"], ["serve"], ["verify"], ["perplexity"], ["bench"], ["bench", "serve"]])
def test_help_shows_an_example(shoal: Shoal, command: list[str]) -> None:
    result = shoal(*command, "--help")
    assert result.status == 0
    assert f"shoal {' '.join(command)}" in result.stdout
    assert "Example" in result.stdout or command == ["bench"]


def test_no_command_shows_the_help(shoal: Shoal) -> None:
    result = shoal()
    assert result.status == 2
    assert "verify" in result.stdout
    assert result.stderr == ""


def test_convert(shoal: Shoal, tmp_path: Path) -> None:
    """A file is written once, and read by its new name."""
    model = write_gguf(tmp_path / "m.gguf", "llama", tiny_llama_tensors(num_layers=1))
    out = tmp_path / "out.gguf"
    assert "must end in .gguf" in shoal("convert", model, tmp_path / "out.bin").complaint
    assert "'int3'" in shoal("convert", model, out, "--precision", "int3").complaint
    written = shoal("convert", model, out, "--precision", "int8", "--json").json
    assert written["tensors"] == {"Q8_0": 8, "F32": 3}
    assert written["bytes"] == out.stat().st_size
    assert "--force" in shoal("convert", model, out).complaint
    assert shoal("convert", model, out, "--force").status == 0
    assert shoal("inspect", out, "--json").json["family"] == "llama"


def test_a_name_that_is_no_text_is_told_before_workers_are(shoal: Shoal, model: Path, tmp_path: Path) -> None:
    copy = tmp_path / os.fsdecode(b"m\xff.gguf")
    copy.symlink_to(model)
    said = shoal("run", copy, "--split", "pp=2", "--prompt", "x").stderr
    assert ".gguf: its name has bytes that are no UTF-8: rename it" in said
