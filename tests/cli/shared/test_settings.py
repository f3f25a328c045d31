"""Options from a file and from the environment, beneath those of the command line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import pytest
import typer
from typer.main import get_command

from shoal.cli.shared.option_values import refuse
from shoal.cli.shared.settings import apply_settings
from shoal.errors import ConfigError

Run = Callable[..., dict[str, Any]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs a command with a few kinds of options under a file with this text, and returns what it was given."""
    app, seen = typer.Typer(), {}

    @app.command()
    def serve(
        context: typer.Context,
        models: list[str],
        config: Annotated[Path | None, typer.Option(is_eager=True, callback=apply_settings)] = None,
        port: Annotated[int, typer.Option(min=0, max=65535)] = 8000,
        max_queue: int | None = None,
        log_json: Annotated[bool, typer.Option("--log-json")] = False,
        origin: list[str] | None = None,
        grpc_port: int | None = None,
    ) -> None:
        refuse(context, ("grpc_port",), "a language model")
        seen.update(
            {name: list(value) if isinstance(value, tuple) else value for name, value in context.params.items()}
        )

    def call(text: str | None, *arguments: str) -> dict[str, Any]:
        file = tmp_path / "serve.yaml"
        if text is not None:
            file.write_text(text)
        with_file = () if text is None else ("--config", str(file))
        get_command(app).main([*with_file, *arguments], standalone_mode=False)
        return seen

    return call


def test_a_file_gives_options_of_every_kind(run: Run) -> None:
    seen = run("models: [a, b]\nport: 81\nmax-queue: 7\nlog_json: true\norigin: [x, y]\n")
    assert [seen[name] for name in ("models", "port", "max_queue", "log_json", "origin")] == [
        ["a", "b"],
        81,
        7,
        True,
        ["x", "y"],
    ]


def test_one_value_stands_for_a_list_of_one_and_null_for_the_default(run: Run) -> None:
    seen = run("models: a\norigin: x\nport:\n")
    assert (seen["models"], seen["origin"], seen["port"]) == (["a"], ["x"], 8000)


def test_the_environment_goes_before_the_file_and_the_command_line_before_both(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOAL_SERVE_PORT", "82")
    monkeypatch.setenv("SHOAL_SERVE_MAX_QUEUE", "8")
    monkeypatch.setenv("SHOAL_SERVE_ORIGIN", "x y")
    monkeypatch.setenv("SHOAL_SERVE_LOG_JSON", "1")
    seen = run("port: 81\nmax-queue: 7\n", "--port", "83", "m")
    assert (seen["port"], seen["max_queue"], seen["origin"], seen["log_json"]) == (83, 8, ["x", "y"], True)
    assert run(None, "m")["port"] == 82


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("prot: 1\n", "prot is not an option of shoal serve; did you mean port?"),
        ("config: other.yaml\n", "config is not an option"),
        ("port: 1\nport-: 2\n", "port- is not an option"),
        ("max-queue: 1\nmax_queue: 2\n", "sets max-queue twice"),
        ("port: 1\nport: 2\n", "port stands there twice"),
        ("- port\n", "contains no options"),
        ("", "contains no options"),
        ("port: {a: 1}\n", "port takes one value"),
        ("port: [1, 2]\n", "port takes one value"),
        ("origin: [x, null]\n", "origin takes one value or a list of values"),
        ("origin: [{a: 1}]\n", "origin takes one value or a list of values"),
        ("a: *b\n", "not YAML"),
        ("grpc-port: 1\n", "--grpc-port cannot be used with a language model"),
        ("x: " + "a" * (1 << 20), "which no file of options has"),
    ],
)
def test_what_cannot_be_used_is_named(run: Run, text: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint.replace("?", r"\?")):
        run(text, "m")


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        ("99999", "99999 is not in the range"),
        ("80.5", "'80.5' is not a valid int"),
        ("true", "'True' is not a valid int"),
        (".inf", "'inf' is not a valid int"),
    ],
)
def test_values_are_checked_as_on_the_command_line(run: Run, value: str, complaint: str) -> None:
    with pytest.raises(Exception, match=complaint):
        run(f"port: {value}\n", "m")


def test_an_unknown_variable_is_named(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOAL_SERVE_PROT", "1")
    with pytest.raises(
        ConfigError, match=r"SHOAL_SERVE_PROT: prot is not an option of shoal serve; did you mean port\?"
    ):
        run(None, "m")


def test_a_file_that_is_not_there_is_named(run: Run) -> None:
    with pytest.raises(ConfigError, match="/none"):
        run(None, "--config", "/none.yaml", "m")
