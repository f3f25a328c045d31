"""Every body that a client library can send, made of the types that it declares: each field once, on its own.

`TypedDict`s, as OpenAI's and Anthropic's libraries have them, and models of Pydantic, as Ollama's has them. A type that
was met before is not gone into again, so that every field of every type is in one body.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

import typing_extensions
from pydantic import BaseModel

_SAMPLES: dict[Any, Any] = {str: "x", int: 1, float: 0.5, bool: True, object: "x", Any: "x", bytes: "x"}


class ClientBody(NamedTuple):
    path: str
    """of the field that it is about, such as `messages[].content[].text`"""
    value: Any


def bodies_of(kind: Any, base: Mapping[str, Any]) -> Iterator[ClientBody]:
    """Bodies of one type of request, each with one field beside those of `base`; lists go on from the lists there."""
    for name, (inner, _) in _fields(_bare(kind)).items():
        for path, value in _variants(inner, set()):
            is_more = isinstance(value, list) and isinstance(base.get(name), list)
            yield ClientBody(f"{name}{path}", {**base, name: [*base[name], *value] if is_more else value})


def _variants(kind: Any, met: set[Any]) -> Iterator[ClientBody]:
    kind = _bare(kind)
    origin = get_origin(kind)
    if fields := _fields(kind):
        if kind in met:
            yield ClientBody("", _least(kind))
            return
        met.add(kind)
        for name, (inner, _) in fields.items():
            for path, value in _variants(inner, met):
                yield ClientBody(f".{name}{path}", {**_least(kind), name: value})
    elif origin in (Union, types.UnionType):
        for one in get_args(kind):
            if one is not type(None):
                yield from _variants(one, met)
    elif _is_list(origin):
        for path, value in _variants((get_args(kind) or (str,))[0], met):
            yield ClientBody(f"[]{path}", [value])
    else:
        yield ClientBody("", _least(kind))


def _least(kind: Any) -> Any:
    """The smallest value of a type."""
    kind = _bare(kind)
    origin = get_origin(kind)
    if fields := _fields(kind):
        return {name: _least(inner) for name, (inner, is_required) in fields.items() if is_required}
    if origin is Literal:
        return get_args(kind)[0]
    if origin in (Union, types.UnionType):
        return _least(get_args(kind)[0])
    if _is_list(origin):
        return [_least((get_args(kind) or (str,))[0])]
    return {} if _is_mapping(kind, origin) else _SAMPLES.get(kind, "x")


def _fields(kind: Any) -> Mapping[str, tuple[Any, bool]]:
    """Of an object: the type of each by its name in JSON, and whether it must be there; empty: it is none."""
    if typing_extensions.is_typeddict(kind):
        hints = typing.get_type_hints(kind, include_extras=True)
        return {_wire_name(name, hint): (hint, _is_required(hint)) for name, hint in hints.items()}
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return {name: (field.annotation, field.is_required()) for name, field in kind.model_fields.items()}
    return {}


def _wire_name(name: str, hint: Any) -> str:
    while get_origin(hint) in (typing.Required, typing_extensions.Required, Annotated):
        for extra in getattr(hint, "__metadata__", ()):
            if alias := getattr(extra, "alias", None):
                return alias
        hint = get_args(hint)[0]
    return name


def _is_required(hint: Any) -> bool:
    """As it is written: classes whose annotations are texts do not know it themselves."""
    return get_origin(hint) in (typing.Required, typing_extensions.Required)


def _bare(kind: Any) -> Any:
    while get_origin(kind) in (typing.Required, typing_extensions.Required, Annotated):
        kind = get_args(kind)[0]
    return kind


def _is_list(origin: Any) -> bool:
    return isinstance(origin, type) and hasattr(origin, "__iter__") and not issubclass(origin, Mapping | str)


def _is_mapping(kind: Any, origin: Any) -> bool:
    return any(isinstance(one, type) and issubclass(one, Mapping) for one in (kind, origin))
