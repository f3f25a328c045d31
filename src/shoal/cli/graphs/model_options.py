"""Options of one model of a server: `--model-config NAME:KEY=VALUE`, or a file beside the model."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, cast

from shoal.cli.graphs.launch_config import parse_batch_dims
from shoal.cli.graphs.samples import is_in_repository, model_name
from shoal.config import GraphLaunchConfig
from shoal.errors import ConfigError
from shoal.planner.files.yaml_text import read_yaml
from shoal.planner.split.split_spec import AUTO, parse_split

_FILE = "shoal.yaml"
_MAX_FILE_BYTES = 1 << 16
"""A file of options has a few lines."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelOptions:
    """What was said of one model; None: as the server's own options say."""

    batch_dim: tuple[str, ...] | None = None
    """as `--batch-dim` has them"""
    split: str | None = None
    threads: int | None = None
    """per worker, >= 1"""
    max_batch: int | None = None
    """rows, >= 1"""
    batch_delay: float | None = None
    """seconds, >= 0"""
    inputs: Path | None = None
    """a file of real inputs to measure with"""


def parse_model_options(items: Sequence[str] | None, names: Collection[str]) -> dict[str, ModelOptions]:
    """`--model-config NAME:KEY=VALUE`, repeated; `batch_dim` may be given several times for a model.

    Args:
        items: as given.
        names: of the models that are served.

    Raises:
        ConfigError: an unknown name or key, or a value that the key cannot have.
    """
    found: dict[str, ModelOptions] = {}
    for item in items or ():
        head, equals, value = item.partition("=")
        name, colon, key = head.rpartition(":")
        title = f"--model-config {item}"
        if not (equals and colon):
            raise ConfigError(f"{title}: give NAME:KEY=VALUE, such as encoder:max_batch=8")
        if name not in names:
            raise ConfigError(f"{title}: there is no model {name!r}; {_nearest(name, names)}")
        before = found.get(name, ModelOptions())
        parsed = _parse(key, value, title, Path())
        if key == "batch_dim":
            parsed = (*(before.batch_dim or ()), *parsed)
        elif getattr(before, key) is not None:
            raise ConfigError(f"{title}: {key} of {name!r} is given twice")
        found[name] = replace(before, **{key: parsed})
    for name, options in found.items():
        _check_dims(options, f"--model-config {name}")
    return found


def options_of(model: Path, given: Mapping[str, ModelOptions], name: str | None = None) -> ModelOptions:
    """What was given on the command line, and for the rest what the file beside the model says.

    That is `NAME.yaml` beside `NAME.onnx`; in a repository `shoal.yaml` in the folder of the version or of the model.

    Args:
        model: an ONNX file.
        given: by the model's name.
        name: what the server calls a lone model; None: as its file.

    Raises:
        ConfigError: the file is no YAML, or holds an unknown key or a value that the key cannot have.
    """
    said = given.get(name or model_name(model), ModelOptions())
    file = _file_beside(model)
    read = ModelOptions() if file is None else _read(file)
    fields = ModelOptions.__dataclass_fields__
    return replace(read, **{key: value for key in fields if (value := getattr(said, key)) is not None})


def with_options(config: GraphLaunchConfig, options: ModelOptions) -> GraphLaunchConfig:
    """How to load a model that has options of its own. Raises ConfigError."""
    if options.split is not None:
        config = replace(config, split=options.split, plan_file=None)
    if options.threads is not None:
        config = replace(config, threads=options.threads)
    if options.batch_dim is None:
        return config
    batch = parse_batch_dims(options.batch_dim)
    return replace(config, batch_dims=batch.dims, is_batched=batch.is_batched)


def _file_beside(model: Path) -> Path | None:
    in_folders = [model.parent / _FILE, model.parent.parent / _FILE]
    places = in_folders if is_in_repository(model) else [model.with_suffix(".yaml")]
    return next((path for path in places if path.is_file()), None)


def _read(file: Path) -> ModelOptions:
    values: Any = read_yaml(file, max_bytes=_MAX_FILE_BYTES, holder="file of options of a model") or {}
    if not isinstance(values, dict):
        raise ConfigError(f"{file}: give KEY: VALUE, such as max_batch: 8")
    pairs = cast(dict[Any, Any], values).items()
    parsed = {str(key): _parse(str(key), value, f"{file}: {key}", file.parent) for key, value in pairs}
    options = ModelOptions(**parsed)
    _check_dims(options, str(file))
    return options


def _parse(key: str, value: Any, title: str, folder: Path) -> Any:
    """A value from the command line or from YAML. `folder`: that paths start from. Raises ConfigError."""
    if key not in _PARSERS:
        raise ConfigError(f"{title}: there is no option {key!r}; {_nearest(key, _PARSERS)}")
    parser, wanted = _PARSERS[key]
    try:
        return parser(value, folder)
    except ConfigError as error:
        raise ConfigError(f"{title}: {error}") from None
    except (ValueError, TypeError, OverflowError):
        raise ConfigError(f"{title}: {key} is {wanted}, not {value!r}") from None


def _whole(value: Any, folder: Path) -> int:
    del folder
    if isinstance(value, bool) or not isinstance(value, int | str) or (number := int(value)) < 1:
        raise ValueError
    return number


def _seconds(value: Any, folder: Path) -> float:
    del folder
    if isinstance(value, bool) or not 0 <= (number := float(value)) < math.inf:
        raise ValueError
    return number


def _split(value: Any, folder: Path) -> str:
    del folder
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError
    if value != AUTO:
        parse_split(str(value))
    return str(value)


def _sample(value: Any, folder: Path) -> Path:
    if not isinstance(value, str) or not value:
        raise ValueError
    path = folder / value
    if not path.is_file():
        raise ConfigError(f"there is no file {path}")
    return path


def _dims(value: Any, folder: Path) -> tuple[str, ...]:
    """`x=0`, a list of such, or a mapping of names to axes; `none` for no batch."""
    del folder
    if isinstance(value, dict):
        items = [f"{name}={'none' if axis is None else axis}" for name, axis in cast(dict[Any, Any], value).items()]
    else:
        items = ["none"] if value is None else cast(list[Any], value) if isinstance(value, list) else [value]
    if not items or not all(isinstance(item, str) for item in items):
        raise ValueError
    return tuple(items)


def _check_dims(options: ModelOptions, title: str) -> None:
    try:
        parse_batch_dims(options.batch_dim)
    except ConfigError as error:
        raise ConfigError(f"{title}: {str(error).replace('--batch-dim', 'batch_dim')}") from None


def _nearest(name: str, names: Collection[str]) -> str:
    close = get_close_matches(name, names, 1)
    return f"did you mean {close[0]!r}?" if close else f"there are {', '.join(sorted(names))}"


_PARSERS: Mapping[str, tuple[Callable[[Any, Path], Any], str]] = {
    "batch_dim": (_dims, "NAME=AXIS, a list of them, or none"),
    "split": (_split, "such as pp=2, or auto"),
    "threads": (_whole, "a whole number from 1"),
    "max_batch": (_whole, "a whole number from 1"),
    "batch_delay": (_seconds, "a number of seconds from 0"),
    "inputs": (_sample, "the path of a .npz file"),
}
"""How each option is read, and what it is."""
