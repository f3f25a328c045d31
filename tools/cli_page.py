"""Writes docs/cli.md from the command line's own definitions: `python -m tools.cli_page`, or `make docs`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from textwrap import fill
from typing import Any

from typer.main import get_command

from shoal.cli.main import app

PAGE = Path(__file__).parents[1] / "docs" / "cli.md"
_WIDTH = 120
_INTRODUCTION = """# Command line

<!-- Written by tools/cli_page.py from src/shoal/cli: change the commands and run `make docs`. -->

`shoal COMMAND --help` shows the same for a single command.

**Completion on Tab**: `shoal --install-completion` installs it for the shell that runs (bash, zsh, fish, PowerShell);
open a new shell afterwards. `shoal --show-completion` only prints the script.

**Output**: results go to stdout; notes, warnings and progress to stderr. `--json` prints one JSON object on stdout and
nothing else.

**Exit status**: 0 means success. 1 means that the command ran and failed (workers were lost, or a comparison differed).
2 means that the command cannot do what was asked for; one line on stderr says why. 130 means that it was interrupted.

**Environment**: `SHOAL_DEBUG=1` shows the traceback of an error. `XDG_CACHE_HOME` moves `~/.cache`, where measurements
and packed weights are kept. [SECURITY.md](../SECURITY.md) says what is read from the network: nothing but `hf:` names.
"""
_TYPES = {"str": "TEXT", "int": "N", "int range": "N", "float": "X", "float range": "X", "path": "PATH", "file": "PATH"}


def page() -> str:
    """The whole page."""
    root: Any = get_command(app)
    parts = [_wrapped(_INTRODUCTION.strip()), ""]
    for name, command in _commands(root, "shoal"):
        parts += _section(name, command)
    return "\n".join(parts).rstrip() + "\n"


def _commands(group: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    """Every command with its whole name, groups left out."""
    for name, command in group.commands.items():
        whole = f"{prefix} {name}"
        if hasattr(command, "commands"):
            yield from _commands(command, whole)
        else:
            yield whole, command


def _section(name: str, command: Any) -> list[str]:
    parameters = [one for one in command.params if not getattr(one, "hidden", False)]
    arguments = [one for one in parameters if one.param_type_name == "argument"]
    parts = [f"## {name}", "", *_paragraphs(command.help)]
    parts += ["```", " ".join([name, *map(_argument, arguments), "[OPTIONS]"]), "```", ""]
    if command.epilog:
        _, *commands = command.epilog.split("\\\n")
        parts += ["For example:", "```", *commands, "```", ""]
    if arguments:
        parts += ["| argument | |", "|---|---|"]
        parts += [f"| `{_argument(one)}` | {_cell(one.help)} |" for one in arguments] + [""]
    for panel, options in _panels(parameters).items():
        parts += [f"**{panel}**", "", "| option | default | |", "|---|---|---|"]
        parts += [f"| {_names(one)} | {_default(one)} | {_cell(one.help)} |" for one in options] + [""]
    return parts


def _panels(parameters: list[Any]) -> Mapping[str, list[Any]]:
    """Options under the headings that `--help` has."""
    panels: dict[str, list[Any]] = {"Options": []}
    for one in parameters:
        if one.param_type_name == "option" and one.name != "help":
            panels.setdefault(one.rich_help_panel or "Options", []).append(one)
    return {heading: options for heading, options in panels.items() if options}


def _argument(one: Any) -> str:
    name = one.metavar or one.name.upper() + ("..." if one.nargs != 1 else "")
    return name if one.required else f"[{name}]"


def _names(one: Any) -> str:
    """The option's names, and what it takes."""
    value = "" if one.is_flag else f" {one.metavar or _TYPES.get(one.type.name, 'VALUE')}"
    names = ", ".join(f"`{name}`" for name in one.opts[:-1])
    off = "".join(f", `{name}`" for name in one.secondary_opts)
    return (names + ", " if names else "") + f"`{one.opts[-1]}{value}`".replace("|", "\\|") + off


def _default(one: Any) -> str:
    if one.required:
        return "required"
    if one.default is None or one.is_flag or callable(one.default):
        return ""
    return f"`{one.default}`"


def _cell(text: str | None) -> str:
    return re.sub(r"\s+", " ", text or "").replace("|", "\\|").strip()


def _paragraphs(text: str | None) -> list[str]:
    found: list[str] = []
    for paragraph in (text or "").strip().split("\n\n"):
        found += [_wrapped(re.sub(r"\s+", " ", paragraph)), ""]
    return found


def _wrapped(text: str) -> str:
    """Paragraphs of at most `_WIDTH` characters a line; headings and comments stay as they are."""

    def one(paragraph: str) -> str:
        if paragraph.startswith(("#", "<")):
            return paragraph
        return fill(paragraph, _WIDTH, break_long_words=False, break_on_hyphens=False)

    return "\n\n".join(one(paragraph) for paragraph in text.split("\n\n"))


if __name__ == "__main__":
    PAGE.write_text(page())
