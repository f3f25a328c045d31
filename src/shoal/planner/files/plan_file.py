"""Plan files: `shoal plan -o plan.yaml`, `--plan plan.yaml`. A file holds all of a plan, so it can be edited."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from types import NoneType, UnionType
from typing import Any, Union, cast, get_args, get_origin, get_type_hints

import msgspec
import yaml

from shoal.core.plan.graph import GraphPlan
from shoal.core.plan.language import Plan
from shoal.errors import ConfigError, while_reading
from shoal.planner.files.yaml_text import parse_yaml

FILE_VERSION = 2
_VERSION_KEY = "shoal_plan"
_KINDS = {"language model": Plan, "graph": GraphPlan}
_WIDTH = 120


def write_plan(plan: Plan | GraphPlan) -> str:
    """The plan as YAML, from which `read_plan` makes an equal plan."""
    kinds = {made_of: name for name, made_of in _KINDS.items()}
    head = {_VERSION_KEY: FILE_VERSION, "kind": kinds[type(plan)]}
    content = head | msgspec.to_builtins(plan)
    return yaml.safe_dump(content, sort_keys=False, default_flow_style=None, width=_WIDTH, allow_unicode=True)


def read_plan(text: str, name: str) -> Plan | GraphPlan:
    """Parse a plan file. `name` is the file's name, for messages.

    Raises:
        ConfigError: the text is no plan, is of another version, or contains unknown keys or invalid values.
    """
    content: Any = parse_yaml(text, name)
    if not isinstance(content, dict) or _VERSION_KEY not in content:
        raise ConfigError(f"{name} is not a plan; make one with: shoal plan MODEL -o {name}")
    values = cast(dict[str, Any], content)
    if values.pop(_VERSION_KEY) != FILE_VERSION:
        raise ConfigError(f"{name} was written by another version of Shoal; make it again with shoal plan")
    kind = values.pop("kind", None)
    if not isinstance(kind, str) or kind not in _KINDS:
        raise ConfigError(f"{name}: kind must be one of {', '.join(_KINDS)}")
    with while_reading(name, ConfigError):
        try:
            _refuse_unknown(values, _KINDS[kind], "")
            return msgspec.convert(values, _KINDS[kind])
        except (msgspec.ValidationError, ConfigError) as error:
            raise ConfigError(f"{name}: {error}") from error


def check_shape(plan: Plan | GraphPlan, shape: str, model: str) -> None:
    """Raises ConfigError unless the plan was made for a model of this shape."""
    if plan.shape != shape:
        raise ConfigError(f"the plan is for {plan.model} ({plan.shape}), but {model} is another model ({shape})")


def _refuse_unknown(value: object, expected: Any, path: str) -> None:
    """Refuse keys for which a dataclass has no field; msgspec would ignore them."""
    if get_origin(expected) in (Union, UnionType):
        (expected, *_) = (one for one in get_args(expected) if one is not NoneType)
    if isinstance(value, dict) and is_dataclass(expected):
        known = {field.name for field in fields(expected)}
        types = get_type_hints(expected)
        for key, inner in cast(dict[str, object], value).items():
            if key not in known:
                close = get_close_matches(str(key), known, n=1)
                raise ConfigError(f"unknown key {path}{key}" + (f" (did you mean {close[0]}?)" if close else ""))
            _refuse_unknown(inner, types[key], f"{path}{key}.")
    elif isinstance(value, list) and get_origin(expected) is tuple:
        for index, inner in enumerate(cast(list[object], value)):
            _refuse_unknown(inner, get_args(expected)[0], f"{path}{index}.")
