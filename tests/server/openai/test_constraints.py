"""Outputs of a given form through the official client, by the fields of every server that has them."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest

from tests.server.running_server import MODEL

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False}
JSON_SCHEMA: dict[str, Any] = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA, "strict": True}}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
LENIENT = {"type": "array", "uniqueItems": True, "x-guidance": {"lenient": True}}
"""which llguidance by itself would take, and pass over that items are unique"""
GBNF = 'root ::= "yes" | "no"'


def ask(client: openai.OpenAI, reply: str = "", **fields: Any) -> str:
    """The answer of a model that would say `reply`, and otherwise the end or the last letter that it may."""
    messages: list[Any] = [{"role": "user", "content": "{" + reply + "}"}]
    answer = client.chat.completions.create(model=MODEL, messages=messages, max_tokens=60, **fields)
    assert answer.choices[0].finish_reason == "stop"
    return answer.choices[0].message.content or ""


@pytest.mark.parametrize(
    "fields",
    [
        {"response_format": JSON_SCHEMA},
        {"response_format": {"type": "json_object", "schema": SCHEMA}},
        {"extra_body": {"guided_json": SCHEMA}},
        {"extra_body": {"guided_json": json.dumps(SCHEMA)}},
        {"extra_body": {"structured_outputs": {"json": SCHEMA}}},
        {"extra_body": {"json_schema": SCHEMA}},
    ],
)
def test_schemas(client: openai.OpenAI, fields: dict[str, Any]) -> None:
    assert ask(client, '_"a":42', **fields) == '{"a":42}'
    assert set(json.loads(ask(client, "something else entirely", **fields))) == {"a"}


@pytest.mark.parametrize(
    "fields",
    [{"response_format": {"type": "json_object"}}, {"extra_body": {"structured_outputs": {"json_object": True}}}],
)
def test_any_object(client: openai.OpenAI, fields: dict[str, Any]) -> None:
    assert json.loads(ask(client, '_"b":[1,2]', **fields)) == {"b": [1, 2]}


@pytest.mark.parametrize(
    ("extra", "answers"),
    [
        ({"guided_regex": "[ab]{3}"}, {"aab"}),
        ({"regex": "[ab]{3}"}, {"aab"}),
        ({"structured_outputs": {"regex": "[ab]{3}"}}, {"aab"}),
        ({"guided_choice": ["no", "aab"]}, {"aab"}),
        ({"structured_outputs": {"choice": ["no", "aab"]}}, {"aab"}),
        ({"guided_grammar": GBNF}, {"yes"}),
        ({"grammar": GBNF}, {"yes"}),
        ({"ebnf": GBNF}, {"yes"}),
        ({"structured_outputs": {"grammar": GBNF}}, {"yes"}),
        ({"response_format": {"type": "text"}, "grammar": "", "guided_json": None}, {"aab"}),
        ({"structured_outputs": {}}, {"aab"}),
    ],
)
def test_other_forms(client: openai.OpenAI, extra: dict[str, Any], answers: set[str]) -> None:
    assert ask(client, "aab", extra_body=extra) in answers


def test_completions_choices_and_streams(client: openai.OpenAI) -> None:
    answer = client.completions.create(
        model=MODEL, prompt=["{x}", "{12}"], n=2, max_tokens=20, extra_body={"guided_regex": "[0-9]+;"}
    )
    assert [choice.text for choice in answer.choices] == ["9;", "9;", "12;", "12;"]
    stream = client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": '{_"a":7}'}], response_format=JSON_SCHEMA, stream=True
    )
    assert json.loads("".join(chunk.choices[0].delta.content or "" for chunk in stream)) == {"a": 7}


def test_an_output_that_is_cut_says_so(client: openai.OpenAI) -> None:
    messages: list[Any] = [{"role": "user", "content": '{_"a":1234567}'}]
    answer = client.chat.completions.create(model=MODEL, messages=messages, max_tokens=6, response_format=JSON_SCHEMA)
    assert answer.choices[0].finish_reason == "length"


@pytest.mark.parametrize(
    ("fields", "param", "named"),
    [
        ({"response_format": {"type": "xml"}}, "response_format.type", "xml"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", "schema"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"not": {}}}}},
         "response_format", "not"),
        ({"structured_outputs": {"yaml": {}}}, "structured_outputs.yaml", "yaml"),
        ({"structured_outputs": {"json": {}, "regex": "a"}}, "structured_outputs", "json and regex"),
        ({"structured_outputs": {"json_object": 1}}, "structured_outputs", "json_object"),
        ({"guided_choice": [""]}, "guided_choice", "not empty"),
        ({"guided_choice": "yes"}, "guided_choice", "array"),
        ({"guided_regex": "("}, "guided_regex", "unclosed group"),
        ({"grammar": "start: foo"}, "grammar", "foo"),
        ({"guided_choice": ["a"], "guided_regex": "b"}, "guided_choice", "both"),
        ({"guided_regex": "a" * 70_000}, "guided_regex", "65536"),
        ({"guided_json": "{"}, "guided_json", "must be JSON"),
        ({"guided_json": "[1]"}, "guided_json", "an object"),
        ({"guided_json": "{", "tools": [TOOL]}, "guided_json", "must be JSON"),
        ({"guided_json": "5", "tools": [TOOL]}, "guided_json", "an object"),
        ({"guided_json": SCHEMA, "ignore_eos": True}, "ignore_eos", "ignore_eos"),
        ({"guided_json": LENIENT}, "guided_json", "x-guidance"),
        ({"guided_json": json.dumps(LENIENT), "tools": [TOOL]}, "guided_json", "x-guidance"),
        ({"response_format": {"type": "json_object", "schema": LENIENT}}, "response_format", "x-guidance"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_named(client: openai.OpenAI, fields: dict[str, Any], param: str, named: str) -> None:
    with pytest.raises(openai.BadRequestError, match=named) as refusal:
        client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "x"}], extra_body=fields)
    assert refusal.value.param == param


NAMES = [f"r{number}" for number in range(60)]
BRANCHING = "start: " + "|".join(NAMES) + "".join(f'\n{name}: "x" {name} | "x"' for name in NAMES)
"""whose alternatives add up with every x"""


@pytest.mark.parametrize("streams", [False, True])
def test_a_grammar_that_becomes_too_complex_ends_its_output_with_an_error(client: openai.OpenAI, streams: bool) -> None:
    messages: list[Any] = [{"role": "user", "content": "{" + "x" * 59 + "}"}]
    said = {"model": MODEL, "messages": messages, "max_tokens": 60, "extra_body": {"guided_grammar": BRANCHING}}
    with pytest.raises(openai.APIError, match="constraint, which has more than 2000 alternatives at") as error:
        list(client.chat.completions.create(**said, stream=streams))
    assert isinstance(error.value, openai.BadRequestError) is not streams
    assert error.value.code == "invalid_value"
