"""Options of `shoal serve` from a file and from the environment, beneath those of the command line."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import typer

from shoal.errors import ConfigError

PREFIX = "SHOAL_SERVE_"
"""Start of the names of environment variables that stand for options: SHOAL_SERVE_MAX_QUEUE for --max-queue."""
_MAX_BYTES = 1 << 20
"""Largest settings file that is read; a long one by hand has a few kilobytes"""


def apply_settings(context: typer.Context, file: Path | None) -> Path | None:
    """Callback of `--config`: what the file and the environment say becomes the defaults of the command.

    The command line goes first, then the environment, then the file.

    Mutates:
        `context.default_map`.

    Raises:
        ConfigError: a name that is no option of the command, or a file that cannot be read.
    """
    known = {name: parameter for parameter in context.command.params if (name := parameter.name)}
    settings: dict[str, Any] = {} if file is None else _from_file(file, known)
    settings |= _from_environment(os.environ, known)
    context.default_map = settings
    return file


def _from_file(file: Path, known: Mapping[str, Any]) -> dict[str, Any]:
    from shoal.planner.files.yaml_text import read_yaml  # not at every start

    content = read_yaml(file, max_bytes=_MAX_BYTES, holder="file of options")
    if not isinstance(content, dict):
        raise ConfigError(f"{file} contains no options: write each one as NAME: VALUE on a line of its own")
    settings: dict[str, Any] = {}
    for key, value in content.items():
        name = _parameter(str(key), str(file), known.keys() - {"config"})
        if name in settings:
            raise ConfigError(f"{file} sets {_spelled(name)} twice")
        settings[name] = _value(value, _takes_many(known[name]), f"{file}: {key}")
    return {name: value for name, value in settings.items() if value is not None}


def _from_environment(environment: Mapping[str, str], known: Mapping[str, Any]) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    for variable in sorted(environment):
        if variable.startswith(PREFIX) and environment[variable]:
            name = _parameter(variable.removeprefix(PREFIX).lower(), variable, known.keys() - {"config"})
            text = environment[variable]
            settings[name] = text.split() if _takes_many(known[name]) else text
    return settings


def _takes_many(parameter: Any) -> bool:
    return bool(getattr(parameter, "multiple", False)) or parameter.nargs == -1


def _parameter(key: str, where: str, known: Iterable[str]) -> str:
    """The parameter that a key names, spelled with dashes as on the command line or with underscores."""
    name, names = key.replace("-", "_"), sorted(known)
    if name in names:
        return name
    close = get_close_matches(name, names, 1)
    hint = f"; did you mean {_spelled(close[0])}?" if close else ""
    raise ConfigError(f"{where}: {_spelled(name)} is not an option of shoal serve{hint}")


def _value(value: Any, takes_many: bool, where: str) -> Any:
    """A text as on the command line, or a list of them for an option that may be repeated; a file's null leaves an
    option at its default."""
    if value is None:
        return None
    items: list[Any] = value if takes_many and isinstance(value, list) else [value]
    if not all(isinstance(item, str | bool | int | float) for item in items):
        raise ConfigError(f"{where} takes one value{' or a list of values' * takes_many}")
    texts = [str(item) for item in items]
    return texts if takes_many else texts[0]


def _spelled(name: str) -> str:
    return name.replace("_", "-")
