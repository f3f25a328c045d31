"""Checks the plain data of a chain's file; errors name the place in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, cast

from shoal.errors import ConfigError
from shoal.model.formats.model_path import package_file


def read_path(text: str, folder: Path, place: str) -> Path:
    """A file's path, relative to a folder, or in a package (`pkg:NAME/PATH`). Raises ConfigError, ModelLoadError."""
    path = package_file(text.removeprefix("pkg:")) if text.startswith("pkg:") else folder / text
    if not path.is_file():
        raise ConfigError(f"{place}: there is no file {path}")
    return path


def read_mapping(data: object, place: str) -> dict[str, Any]:
    """A mapping with text keys. Raises ConfigError."""
    if not isinstance(data, dict) or not all(isinstance(key, str) for key in cast(dict[object, object], data)):
        raise ConfigError(f"{place} must be KEY: VALUE pairs")
    return cast(dict[str, Any], data)


def check_keys(fields: Mapping[str, object], known: Sequence[str], place: str) -> None:
    """Raises ConfigError if a key is unknown."""
    for key in fields:
        if key not in known:
            near = get_close_matches(key, known, n=1)
            raise ConfigError(
                f"{place}: there is no key {key!r}; "
                + (f"did you mean {near[0]!r}?" if near else f"the keys are {', '.join(known)}")
            )


def read_pairs(data: object, place: str) -> dict[str, str]:
    """Texts by texts, at least one. Raises ConfigError."""
    pairs = read_mapping(data, place)
    if not pairs:
        raise ConfigError(f"{place} must name at least one value")
    return {read_text(key, place): read_text(value, f"{place}.{key}") for key, value in pairs.items()}


def read_names(data: object, place: str, *, may_be_empty: bool = False) -> list[str]:
    """A list of different names, or a single name. Raises ConfigError."""
    items = [data] if isinstance(data, str) else data
    if not isinstance(items, list) or not (items or may_be_empty):
        raise ConfigError(f"{place} must be a list of names")
    names = [read_name(item, place) for item in cast(list[object], items)]
    if len(set(names)) < len(names):
        raise ConfigError(f"{place}: a name is given twice")
    return names


def read_name(value: object, place: str) -> str:
    """A name that is valid in Python. Raises ConfigError."""
    text = read_text(value, place)
    if not text.isidentifier():
        raise ConfigError(f"{place}: {text!r} is not a name: use letters, digits and _, as in Python")
    return text


def read_text(value: object, place: str) -> str:
    """A text. Raises ConfigError if the value is not a text, or empty."""
    if not isinstance(value, str) or not value:
        raise ConfigError(f"{place} must be text, not {value!r}")
    return value


def read_number(value: object, place: str, *, least: float, most: float, is_whole: bool = False) -> Any:
    """A number within bounds. Raises ConfigError."""
    is_number = isinstance(value, int if is_whole else int | float) and not isinstance(value, bool)
    if not is_number or not least <= cast(float, value) <= most:
        raise ConfigError(f"{place} must be {'a whole number' if is_whole else 'a number'} from {least:g} to {most:g}")
    return value
