"""Grammars for answers that must call tools, or whose calls must fit their schemas."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from shoal.model.text.answer.answer import Schemas
from shoal.model.text.answer.formats import WrittenCalls
from shoal.model.text.grammar.constraint import JSON_WHITESPACE, LIBRARY_OPTIONS, Constraint, ConstraintKind

_MAX_CALLS = 16
"""Most calls of an answer that must have some: a small model that may write calls forever sometimes does."""
_NO_PARAMETERS: Mapping[str, Any] = {"type": "object", "properties": {}, "additionalProperties": False}
_OPEN = frozenset({"$ref", "additionalProperties", "allOf", "anyOf", "oneOf", "patternProperties"})
"""Keywords that allow, or may allow, more than `properties` names."""
_ANYTHING = "(/(.|\\n)+/ | <[*]>)*"
"""Any text, special tokens included."""
_MAX_THOUGHTS = 4
"""Most messages of reasoning before an answer."""
SpecialToken = Callable[[str], int | None]
"""Returns the id of the special token with exactly this text; None: there is none."""


def demanded_calls(
    written: WrittenCalls, schemas: Schemas, special: SpecialToken, *, max_calls: int | None, reasoning: str = ""
) -> Constraint:
    """An answer that consists of one or several calls.

    Args:
        written: how calls are written.
        schemas: of the tools that may be called, at least one.
        special: tells special tokens, which text in a grammar does not match.
        max_calls: None: the usual limit.
        reasoning: the tag that ends the reasoning before the calls; empty: there is no reasoning.
    """
    body = _some_calls(written, special, max_calls)
    return Constraint(ConstraintKind.GRAMMAR, "\n".join(_with_reasoning(body, reasoning) + _calls(written, schemas)))


def calls_or_json(
    written: WrittenCalls,
    schemas: Schemas,
    special: SpecialToken,
    schema: str,
    *,
    max_calls: int | None,
    reasoning: str = "",
) -> Constraint:
    """An answer that consists of tool calls, or of JSON that fits a schema. See `demanded_calls` for the arguments."""
    lines = [
        *_with_reasoning("(calls | json)", reasoning),
        f"calls: {_some_calls(written, special, max_calls)}",
        f"json: {_json_rule(json.loads(schema))}",
        *_calls(written, schemas),
    ]
    return Constraint(ConstraintKind.GRAMMAR, "\n".join(lines))


def marked_calls_or_json(
    begins: Sequence[str], special: SpecialToken, schema: str, *, reasoning: str = ""
) -> Constraint:
    """An answer that begins with a marker of calls and is free after it, or is JSON that fits a schema.

    Args:
        begins: the markers, at least one.
        special: see `demanded_calls`.
        schema: of the JSON.
        reasoning: see `demanded_calls`.
    """
    lines = [
        *_with_reasoning("(calls | json)", reasoning),
        f"calls: ({' | '.join(_spelled(one, special) for one in begins)}) {_ANYTHING}",
        f"json: {_json_rule(json.loads(schema))}",
    ]
    return Constraint(ConstraintKind.GRAMMAR, "\n".join(lines))


def harmony_json(special: SpecialToken, schema: str, *, with_calls: bool) -> Constraint:
    """An answer in gpt-oss's messages: reasoning, then JSON that fits a schema in the final message, or a function
    call.

    JSON without any message is also an answer, as `harmony` reads it.
    """
    channel, message, begin, end, constrain = (
        _spelled(f"<|{name}|>", special) for name in ("channel", "message", "start", "end", "constrain")
    )
    lines = [
        f"start: json | analysis{{0,{_MAX_THOUGHTS}}} ({'final | call' if with_calls else 'final'})",
        f'analysis: {channel} "analysis" {message} thought {begin} "assistant"',
        f"thought{'' if end.startswith('<') else '[lazy]'}: /(.|\\n)*/ {end}",
        f'final: {channel} "final" (/ ?/ {constrain} "json")? {message} json',
        f"json: {_json_rule(json.loads(schema))}",
    ]
    if with_calls:
        lines.append(f'call: ({channel} "commentary to=functions." | " to=functions.") {_ANYTHING}')
    return Constraint(ConstraintKind.GRAMMAR, "\n".join(lines))


def checked_calls(written: WrittenCalls, schemas: Schemas, special: SpecialToken) -> Constraint | None:
    """Any text in which calls fit their schemas. None: no marker begins calls, so they cannot be recognized."""
    if not written.before:
        return None
    marker, _, rest = _split(written.before, special)
    opening = f"TEXT {marker}" if marker.startswith("<") else "opened"
    lines = [f"start: ({opening} {_spelled(rest, special)} call {_spelled(written.behind, special)})* TEXT"]
    if not marker.startswith("<"):
        lines.append(f"opened[lazy]: TEXT {marker}")
    lines += ["TEXT: /(.|\\n)*/", *_calls(written, schemas)]
    return Constraint(ConstraintKind.GRAMMAR, "\n".join(lines))


def behind_reasoning(schema: str, reasoning: str) -> Constraint:
    """Reasoning up to the tag that ends it, followed by JSON."""
    return Constraint(
        ConstraintKind.GRAMMAR,
        "\n".join([*_with_reasoning("body", reasoning), f"body: {_json_rule(json.loads(schema))}"]),
    )


def _some_calls(written: WrittenCalls, special: SpecialToken, max_calls: int | None) -> str:
    num_more = (_MAX_CALLS if max_calls is None else max_calls) - 1
    more = f" ({_spelled(written.between, special)} call){{0,{num_more}}}" if num_more else ""
    return f"{_spelled(written.before, special)} call{more} {_spelled(written.behind, special)}"


def _with_reasoning(body: str, reasoning: str) -> list[str]:
    if not reasoning:
        return [f"start: {body}"]
    return [f"start: thought /\\s*/ {body}", f"thought[lazy]: /(.|\\n)*/ {json.dumps(reasoning)}"]


def _calls(written: WrittenCalls, schemas: Schemas) -> list[str]:
    """Rules for calls. Schemas stay whole, so that references within them still resolve."""
    names = [f"call_{index}" for index in range(len(schemas))]
    rules = [
        f"{rule}: {_call_head(name, written.argument_key)} {_json_rule(_closed(schema))} {json.dumps('}')}"
        for rule, (name, schema) in zip(names, schemas.items(), strict=True)
    ]
    return [f"call: {' | '.join(names)}", *rules]


def _closed(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """A schema of arguments that excludes those it does not name, unless it says which others are allowed.

    The arguments are passed to a function, which takes no others. Source: the rules of OpenAI's strict tools; llama.cpp
    and XGrammar do the same.
    """
    if "properties" not in schema or _OPEN & schema.keys():
        return schema or _NO_PARAMETERS
    return {**schema, "additionalProperties": False}


def _call_head(name: str, argument_key: str) -> str:
    return json.dumps(f'{{"name": {json.dumps(name)}, "{argument_key}": ')


def _json_rule(schema: Mapping[str, Any]) -> str:
    return "%json " + json.dumps({**schema, LIBRARY_OPTIONS: {"whitespace_pattern": JSON_WHITESPACE}})


def _spelled(text: str, special: SpecialToken) -> str:
    """A text in the grammar's notation: special tokens by number, the rest in quotes."""
    pieces: list[str] = []
    while text:
        piece, _, text = _split(text, special)
        pieces.append(piece)
    return " ".join(pieces)


def _split(text: str, special: SpecialToken) -> tuple[str, str, str]:
    """The first piece of a text in the grammar's notation, the same piece as it is, and the rest of the text."""
    for marker in re.findall(r"^<[^<>\s]+>|^\[[A-Z_]+\]", text):
        token_id = special(marker)
        if token_id is not None:
            return f"<[{token_id}]>", marker, text[len(marker) :]
        return json.dumps(marker), marker, text[len(marker) :]
    place = next((found.start() for found in re.finditer(r"<[^<>\s]+>|\[[A-Z_]+\]", text)), len(text))
    return json.dumps(text[:place]), text[:place], text[place:]
