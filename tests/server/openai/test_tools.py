"""Calls of tools through the official client: offered, called, streamed, demanded and answered."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest

from tests.server.running_server import MODEL, RunningServer

CITY = {
    "type": "object",
    "properties": {"city": {"enum": ["Rom", "Bonn"]}},
    "required": ["city"],
    "additionalProperties": False,
}
TOOLS: list[Any] = [
    {"type": "function", "function": {"name": "weather", "description": "Of a city.", "parameters": CITY}},
    {"type": "function", "function": {"name": "now"}},
]
CALLS = '_<tool_call>\n[["name": "weather", "arguments": [["city": "Rom"]]]]\n</tool_call>'
"""what the fake model says where its braces are brackets: braces mark what it is to say"""


def say(text: str) -> list[Any]:
    return [{"role": "user", "content": "{" + text.replace("[[", "\x01").replace("]]", "\x02") + "}"}]


@pytest.fixture(autouse=True)
def _braces(server: RunningServer, monkeypatch: pytest.MonkeyPatch) -> None:
    reply = server.engine.reply
    table = {1: ord("{"), 2: ord("}")}
    monkeypatch.setattr(server.engine, "reply", lambda request: [table.get(one, one) for one in reply(request)])


def test_a_call_and_the_text_before_it(client: openai.OpenAI, server: RunningServer) -> None:
    answer = client.chat.completions.create(model=MODEL, messages=say("I look." + CALLS[1:]), tools=TOOLS)
    (choice,) = answer.choices
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content == "I look."
    (call,) = choice.message.tool_calls or []
    assert call.type == "function"
    assert (call.function.name, json.loads(call.function.arguments)) == ("weather", {"city": "Rom"})
    assert call.id.startswith("call_")
    prompt = bytes(server.engine.requests[-1].prompt_ids).decode()
    assert prompt.startswith("<tools>weather now<user>")


def test_a_streamed_call(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(model=MODEL, messages=say("Hm." + CALLS[1:]), tools=TOOLS, stream=True)
    chunks = list(stream)
    deltas = [chunk.choices[0].delta for chunk in chunks]
    assert "".join(delta.content or "" for delta in deltas) == "Hm."
    calls = [call for delta in deltas for call in delta.tool_calls or []]
    assert calls[0].function is not None
    assert (calls[0].index, calls[0].function.name) == (0, "weather")
    assert calls[0].id
    assert json.loads("".join(call.function.arguments or "" for call in calls if call.function)) == {"city": "Rom"}
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


def test_the_clients_own_helper_for_streams(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(model=MODEL, messages=say(CALLS), tools=TOOLS) as stream:
        final = stream.get_final_completion()
    (call,) = final.choices[0].message.tool_calls or []
    assert call.function.name == "weather"


def test_what_was_called_before_is_in_the_prompt(client: openai.OpenAI, server: RunningServer) -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Rom"}'}}
    messages: list[Any] = [
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "sunny"},
        {"role": "user", "content": "{thanks}"},
    ]
    answer = client.chat.completions.create(model=MODEL, messages=messages, tools=TOOLS)
    assert answer.choices[0].message.content == "thanks"
    prompt = bytes(server.engine.requests[-1].prompt_ids).decode()
    assert '<assistant>{"name": "weather", "arguments": {"city": "Rom"}}<tool>sunny<user>' in prompt


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "weather"}}])
def test_a_demanded_call_always_parses(client: openai.OpenAI, choice: Any) -> None:
    answer = client.chat.completions.create(
        model=MODEL, messages=say("I will not"), tools=TOOLS, tool_choice=choice, max_tokens=200
    )
    calls = answer.choices[0].message.tool_calls or []
    assert answer.choices[0].message.content is None
    assert calls
    for call in calls:
        arguments = json.loads(call.function.arguments)
        assert set(arguments) == ({"city"} if call.function.name == "weather" else set())
    if choice != "required":
        assert [call.function.name for call in calls] == ["weather"]


@pytest.mark.parametrize(
    ("parameters", "may_have_more"),
    [
        ({"type": "object", "properties": {}}, False),
        ({"type": "object", "properties": {}, "additionalProperties": {"type": "integer"}}, True),
        ({"type": "object"}, True),
    ],
)
def test_demanded_arguments_are_those_that_are_named(
    client: openai.OpenAI, parameters: dict[str, Any], may_have_more: bool
) -> None:
    tools: list[Any] = [{"type": "function", "function": {"name": "now", "parameters": parameters}}]
    wanted = '<tool_call>\n[["name": "now", "arguments": [["odd": 1]]]]\n</tool_call>'
    answer = client.chat.completions.create(
        model=MODEL, messages=say(wanted), tools=tools, tool_choice="required", parallel_tool_calls=False
    )
    (call,) = answer.choices[0].message.tool_calls or []
    assert call.type == "function"
    assert json.loads(call.function.arguments) == ({"odd": 1} if may_have_more else {})


def test_an_answer_of_a_form_may_be_a_call_instead(client: openai.OpenAI) -> None:
    form: Any = {"type": "json_schema", "json_schema": {"name": "x", "schema": CITY}}
    common: dict[str, Any] = {"model": MODEL, "tools": TOOLS, "response_format": form, "max_tokens": 200}
    called = client.chat.completions.create(messages=say(CALLS[1:]), **common).choices[0]
    assert [call.function.name for call in called.message.tool_calls or []] == ["weather"]
    said = client.chat.completions.create(messages=say('[["city": "Bonn"]]'), **common).choices[0].message
    assert (said.tool_calls, json.loads(said.content or "")) == (None, {"city": "Bonn"})
    demanded = client.chat.completions.create(messages=say("x"), tool_choice="required", **common).choices[0].message
    assert demanded.tool_calls


@pytest.mark.parametrize("num_tokens", [3, 20])
def test_a_demanded_call_that_is_cut_is_no_text(client: openai.OpenAI, num_tokens: int) -> None:
    body: dict[str, Any] = {"messages": say("x"), "tools": TOOLS, "tool_choice": "required", "max_tokens": num_tokens}
    choice = client.chat.completions.create(model=MODEL, **body).choices[0]
    assert choice.finish_reason == "length"
    assert not choice.message.content
    chunks = client.chat.completions.create(model=MODEL, stream=True, **body)
    assert not "".join(chunk.choices[0].delta.content or "" for chunk in chunks)


def test_one_call_where_no_more_are_wanted(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL, messages=say("x"), tools=TOOLS, tool_choice="required", parallel_tool_calls=False, max_tokens=200
    )
    assert len(answer.choices[0].message.tool_calls or []) == 1


def test_no_tools_are_offered_where_none_may_be_called(client: openai.OpenAI, server: RunningServer) -> None:
    answer = client.chat.completions.create(model=MODEL, messages=say(CALLS[1:]), tools=TOOLS, tool_choice="none")
    assert answer.choices[0].message.tool_calls is None
    assert "<tool_call>" in (answer.choices[0].message.content or "")
    assert b"<tools>" not in bytes(server.engine.requests[-1].prompt_ids)


def test_strict_tools_are_held_to_their_schema(client: openai.OpenAI) -> None:
    strict: list[Any] = [{"type": "function", "function": {**TOOLS[0]["function"], "strict": True}}]
    wrong = 'Hm. <tool_call>\n[["name": "weather", "arguments": [["town": 5]]]]\n</tool_call>'
    answer = client.chat.completions.create(model=MODEL, messages=say(wrong), tools=strict, max_tokens=200)
    for call in answer.choices[0].message.tool_calls or []:
        assert set(json.loads(call.function.arguments)) == {"city"}
    free = client.chat.completions.create(model=MODEL, messages=say("no call"), tools=strict)
    assert free.choices[0].message.content == "no call"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "other"}}}, "tool_choice"),
        ({"tools": [TOOLS[0], TOOLS[0]]}, "tools"),
        ({"tools": [{"type": "function", "function": {"name": "two words"}}]}, "tools[0].function.name"),
        ({"tools": [{"type": "retrieval"}]}, "tools[0].type"),
        ({"tools": [{"type": "function", "function": {"name": "f", "parameters": {"not": {}}}}],
          "tool_choice": "required"}, "tools"),
        ({"tools": TOOLS, "tool_choice": "required", "grammar": 'root ::= "a"'}, "tool_choice"),
        ({"tools": TOOLS, "tool_choice": "any"}, "tool_choice"),
        ({"tools": [{"type": "function", "function": {"name": "f", "parameters": {"x-guidance": {}}}}]}, "tools"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_named(client: openai.OpenAI, fields: dict[str, Any], param: str) -> None:
    with pytest.raises(openai.BadRequestError) as refusal:
        client.chat.completions.create(model=MODEL, messages=say("x"), extra_body=fields)
    assert (refusal.value.param or "").startswith(param)


def test_completions_take_no_tools(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="tools"):
        client.completions.create(model=MODEL, prompt="x", extra_body={"tools": TOOLS})


@pytest.mark.parametrize("said", [{"guided_choice": ["a", "b"]}, {"structured_outputs": {"regex": "a|b"}}])
def test_a_form_beside_which_no_tool_could_be_called_is_refused(client: openai.OpenAI, said: dict[str, Any]) -> None:
    common: dict[str, Any] = {"model": MODEL, "messages": say("a"), "tools": TOOLS, "max_tokens": 8, "extra_body": said}
    with pytest.raises(openai.BadRequestError, match="none of the `tools` can be called") as caught:
        client.chat.completions.create(**common)
    assert caught.value.param == next(iter(said))
    assert client.chat.completions.create(tool_choice="none", **common).choices[0].message.content == "a"
