"""What was given on the command line or by settings, read and checked."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import typer

from shoal.config import parse_size
from shoal.errors import ConfigError


def are_exact(activations: str) -> bool:
    """What `--activations` says. Raises ConfigError."""
    if activations not in ("int8", "exact"):
        raise ConfigError(f"--activations is {activations!r}, but it must be int8 or exact")
    return activations == "exact"


def parse_bytes(text: str | None, option: str = "--kv-memory") -> int | None:
    """`512M` as a number of bytes; None stays None. Raises ConfigError, naming the option."""
    return None if text is None else parse_size(text, option)


def check_beams(beam_size: int, max_seqs: int) -> None:
    """Raises ConfigError: no search would ever find room."""
    if beam_size > max_seqs:
        raise ConfigError(f"--beam-size {beam_size} needs --max-seqs of at least {beam_size}, not {max_seqs}")


def text(path: Path | None) -> str | None:
    """A path as plain data."""
    return None if path is None else str(path)


def given_plan(context: typer.Context, plan: Path | None) -> str | None:
    """The plan file as the launch configuration takes it. Raises ConfigError beside --split."""
    if plan is None:
        return None
    source = context.get_parameter_source("split")
    if source is not None and source.name in _GIVEN:
        raise ConfigError("--plan takes the place of --split: give only one of them")
    return str(plan)


_GIVEN = ("COMMANDLINE", "DEFAULT_MAP")


def is_given(context: typer.Context, name: str) -> bool:
    """Whether an option was given, on the command line or by settings."""
    source = context.get_parameter_source(name)
    return source is not None and source.name in _GIVEN


def refuse(context: typer.Context, options: Iterable[str], kind: str) -> None:
    """Refuse options that were given, on the command line or by settings, but mean nothing for this kind of model.

    Raises:
        ConfigError: naming the first of them.
    """
    for parameter in context.command.params:
        if (name := parameter.name) and name in options and is_given(context, name):
            raise ConfigError(f"{parameter.opts[0]} cannot be used with {kind}")
