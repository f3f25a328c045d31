"""The required format of an output, in the forms that clients of several servers use.

OpenAI: `response_format`. vLLM: `structured_outputs`, before that `guided_*`. llama.cpp: `json_schema`, `grammar`.
SGLang: `regex`, `ebnf`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, cast

from shoal.errors import InvalidRequest
from shoal.model.text.grammar.constraint import Constraint, ConstraintKind, check_schema, choice_constraint
from shoal.server.openai.body.fields import check_extra

_ANY_OBJECT = '{"type":"object"}'


class NamedConstraint(NamedTuple):
    """A constraint and the field of the body that contains it, for messages."""

    constraint: Constraint
    field: str


def find_constraint(values: Mapping[str, Any]) -> NamedConstraint | None:
    """The only constraint among the fields of a body; None: there is none.

    Args:
        values: by the names of CONSTRAINT_FIELDS; None and values without meaning (`{"type": "text"}`, "") count as
            absent.

    Raises:
        InvalidRequest: a field has another form than its server documents, or there are two constraints.
    """
    found: list[NamedConstraint] = []
    for name, value in values.items():
        if value in (None, "", {}):
            continue
        try:
            constraint = _READERS[name](value)
        except InvalidRequest as error:
            raise InvalidRequest(f"`{name}` cannot be used: {error}", param=error.param or name) from error
        if constraint is not None:
            found.append(NamedConstraint(constraint, name))
    if len(found) > 1:
        raise InvalidRequest(
            f"`{found[0].field}` and `{found[1].field}` both say what the output must look like: leave one out",
            param=found[1].field,
        )
    return found[0] if found else None


def check_response_format(value: Mapping[str, Any], *, strict: bool) -> None:
    """Check the unknown fields of a `response_format`. Raises InvalidRequest, see `check_extra`."""
    prefix, holder = "response_format.", value.get("json_schema")
    _check_known(value, ("type", "json_schema", "schema"), prefix, strict)
    if isinstance(holder, dict):
        known = ("name", "description", "schema", "strict")
        _check_known(cast(dict[str, Any], holder), known, f"{prefix}json_schema.", strict)


def _check_known(value: Mapping[str, Any], known: tuple[str, ...], prefix: str, strict: bool) -> None:
    extra = {name: one for name, one in value.items() if name not in known}
    check_extra(extra, known, {}, (), prefix, strict=strict)


def _response_format(value: dict[str, Any]) -> Constraint | None:
    """Source: OpenAI API reference, `response_format` of chat completions; llama.cpp's `schema` of a `json_object`."""
    match value.get("type"):
        case "text":
            return None
        case "json_object":
            return _schema(_ANY_OBJECT if value.get("schema") is None else value["schema"])
        case "json_schema":
            holder = value.get("json_schema")
            if not isinstance(holder, dict) or not isinstance(cast(dict[str, Any], holder).get("schema"), dict):
                raise InvalidRequest(
                    'it must be {"type": "json_schema", "json_schema": {"name": "...", "schema": {...}}}',
                    param="response_format.json_schema",
                )
            return _schema(cast(dict[str, Any], holder)["schema"])
        case kind:
            raise InvalidRequest(
                f"its type is {json.dumps(kind)[:100]}, but it must be text, json_object or json_schema",
                param="response_format.type",
            )


def _structured_outputs(value: dict[str, Any]) -> Constraint | None:
    """Source: vLLM's StructuredOutputsParams."""
    given = {name: one for name, one in value.items() if one not in (None, False, "")}
    if not given:
        return None
    if len(given) > 1:
        raise InvalidRequest(f"it has {' and '.join(sorted(given))}: give only one of them")
    (name, one), *_ = given.items()
    param = f"structured_outputs.{name}"
    if name not in _STRUCTURED:
        raise InvalidRequest(f"{name[:100]!r} is not one of {', '.join(_STRUCTURED)}", param=param)
    return _STRUCTURED[name](one)


def _schema(value: object) -> Constraint:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise InvalidRequest(f"a schema that is a text must be JSON: {error}") from None
    if not isinstance(value, dict):
        raise InvalidRequest("a schema must be an object")
    check_schema(cast(dict[str, object], value))
    return Constraint(ConstraintKind.JSON_SCHEMA, json.dumps(value))


def _json_object(value: object) -> Constraint:
    if value is not True:
        raise InvalidRequest("json_object must be true")
    return _schema(_ANY_OBJECT)


def _regex(value: object) -> Constraint:
    return Constraint(ConstraintKind.REGEX, _text(value, "a regular expression"))


def _grammar(value: object) -> Constraint:
    return Constraint(ConstraintKind.GRAMMAR, _text(value, "a grammar"))


def _choice(value: object) -> Constraint:
    choices = cast(list[object], value) if isinstance(value, list) else []
    if not choices or not all(isinstance(choice, str) and choice for choice in choices):
        raise InvalidRequest("it must be a list of texts that are not empty")
    return choice_constraint(cast(list[str], choices))


def _text(value: object, what: str) -> str:
    if not isinstance(value, str):
        raise InvalidRequest(f"{what} must be a text")
    return value


_STRUCTURED: dict[str, Callable[[object], Constraint]] = {
    "json": _schema,
    "regex": _regex,
    "choice": _choice,
    "grammar": _grammar,
    "json_object": _json_object,
}
_READERS: dict[str, Callable[[Any], Constraint | None]] = {
    "response_format": _response_format,
    "structured_outputs": _structured_outputs,
    "guided_json": _schema,
    "guided_regex": _regex,
    "guided_choice": _choice,
    "guided_grammar": _grammar,
    "json_schema": _schema,
    "grammar": _grammar,
    "regex": _regex,
    "ebnf": _grammar,
}
CONSTRAINT_FIELDS = tuple(_READERS)
"""Fields of a body that require a format of the output."""
