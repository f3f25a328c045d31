"""Anthropic's official client, unchanged, against a real server."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import anthropic
import httpx
import pytest

from tests.server.fakes import FakeEngine, ids
from tests.server.running_server import MODEL, RunningServer, run_server

TOOL: Any = {
    "name": "weather",
    "description": "Of a city.",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"enum": ["Rom", "Bonn"]}},
        "required": ["city"],
        "additionalProperties": False,
    },
}


def reply_to(request: Any) -> list[int]:
    """What stands between the last < and >, with braces for brackets."""
    prompt = bytes(token_id for token_id in request.prompt_ids if token_id < 256).decode()
    said = prompt.rpartition("say ")[2].partition("<assistant>")[0]
    return ids(said.replace("[[", "{").replace("]]", "}"))


@pytest.fixture(scope="module")
def server() -> Generator[RunningServer, None, None]:
    with run_server(FakeEngine(reply=reply_to), api_key="secret") as running:
        yield running


@pytest.fixture(scope="module")
def client(server: RunningServer) -> Generator[anthropic.Anthropic, None, None]:
    with anthropic.Anthropic(base_url=server.url, api_key="secret", max_retries=0) as client:
        yield client


def say(text: str) -> list[Any]:
    return [{"role": "user", "content": f"say {text}"}]


def test_a_message(client: anthropic.Anthropic, server: RunningServer) -> None:
    message = client.messages.create(model=MODEL, max_tokens=50, system="Be brief.", messages=say("Grüße ✓"))
    assert [block.text for block in message.content if block.type == "text"] == ["Grüße ✓"]
    assert (message.role, message.model, message.stop_reason) == ("assistant", MODEL, "end_turn")
    prompt = bytes(server.engine.requests[-1].prompt_ids).decode()
    assert prompt == "<system>Be brief.<user>say Grüße ✓<assistant>"
    assert message.usage.input_tokens + (message.usage.cache_read_input_tokens or 0) == len(prompt.encode())
    assert message.usage.output_tokens == len("Grüße ✓".encode()) + 1


def test_instructions_in_the_middle(client: anthropic.Anthropic, server: RunningServer) -> None:
    """As Claude Code sends them."""
    told: list[Any] = [*say("a"), {"role": "system", "content": "There are skills."}]
    client.messages.create(model=MODEL, max_tokens=5, system="Be brief.", messages=told)
    assert bytes(server.engine.requests[-1].prompt_ids).decode() == (
        "<system>Be brief.<user>say a<system>There are skills.<assistant>"
    )


def test_a_stream(client: anthropic.Anthropic) -> None:
    with client.messages.stream(model=MODEL, max_tokens=50, messages=say("Grüße ✓")) as stream:
        assert "".join(stream.text_stream) == "Grüße ✓"
        final = stream.get_final_message()
    assert final.stop_reason == "end_turn"
    assert final.usage.output_tokens == len("Grüße ✓".encode()) + 1


@pytest.mark.parametrize(
    ("fields", "reason", "stop"),
    [
        ({"max_tokens": 3}, "max_tokens", None),
        ({"max_tokens": 9, "stop_sequences": ["c"]}, "stop_sequence", "c"),
        ({"max_tokens": 20_000}, "end_turn", None),
    ],
)
def test_reasons_to_stop(client: anthropic.Anthropic, fields: dict[str, Any], reason: str, stop: str | None) -> None:
    message = client.messages.create(model=MODEL, messages=say("abcdef"), **fields)
    with client.messages.stream(model=MODEL, messages=say("abcdef"), **fields) as stream:
        streamed = stream.get_final_message()
    assert (
        (message.stop_reason, message.stop_sequence) == (streamed.stop_reason, streamed.stop_sequence) == (reason, stop)
    )


def test_an_answer_that_fills_the_context(client: anthropic.Anthropic) -> None:
    message = client.messages.create(model=MODEL, messages=say("a" * 300), max_tokens=20_000)
    assert message.stop_reason == "model_context_window_exceeded"
    assert message.usage.input_tokens + message.usage.cache_read_input_tokens + message.usage.output_tokens == 512


CALL = 'I look. <tool_call>\n[["name": "weather", "arguments": [["city": "Rom"]]]]\n</tool_call>'


def check_call(message: anthropic.types.Message) -> None:
    assert message.stop_reason == "tool_use"
    text, call = message.content
    assert text.type == "text"
    assert text.text == "I look. "
    assert call.type == "tool_use"
    assert (call.name, call.input) == ("weather", {"city": "Rom"})
    assert call.id.startswith("toolu_")


def test_a_call_of_a_tool(client: anthropic.Anthropic) -> None:
    check_call(client.messages.create(model=MODEL, max_tokens=200, messages=say(CALL), tools=[TOOL]))
    with client.messages.stream(model=MODEL, max_tokens=200, messages=say(CALL), tools=[TOOL]) as stream:
        check_call(stream.get_final_message())


@pytest.mark.parametrize("choice", [{"type": "any"}, {"type": "tool", "name": "weather"}])
def test_a_demanded_call(client: anthropic.Anthropic, choice: Any) -> None:
    message = client.messages.create(
        model=MODEL,
        max_tokens=200,
        messages=say("no"),
        tools=[TOOL],
        tool_choice={**choice, "disable_parallel_tool_use": True},
    )
    (call,) = message.content
    assert call.type == "tool_use"
    assert call.input in ({"city": "Rom"}, {"city": "Bonn"})


def test_what_a_call_returned(client: anthropic.Anthropic, server: RunningServer) -> None:
    messages: list[Any] = [
        {"role": "user", "content": [{"type": "text", "text": "Weather?", "cache_control": {"type": "ephemeral"}}]},
        {"role": "assistant", "content": [
            {"type": "thinking", "thinking": "hm", "signature": ""},
            {"type": "text", "text": "I look."},
            {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Rom"}},
        ]},
        {"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": "toolu_1", "content": [{"type": "text", "text": "sunny"}]},
            {"type": "text", "text": "say thanks"},
        ]},
    ]  # fmt: skip
    message = client.messages.create(model=MODEL, max_tokens=50, messages=messages, tools=[TOOL])
    assert [block.text for block in message.content if block.type == "text"] == ["thanks"]
    prompt = bytes(server.engine.requests[-1].prompt_ids).decode()
    assert '{"name": "weather", "arguments": {"city": "Rom"}}I look.<tool>sunny<user>say thanks' in prompt


def test_tokens_are_counted(client: anthropic.Anthropic, server: RunningServer) -> None:
    counted = client.messages.count_tokens(model=MODEL, system="Be brief.", messages=say("x"), tools=[TOOL])
    client.messages.create(model=MODEL, max_tokens=1, system="Be brief.", messages=say("x"), tools=[TOOL])
    assert counted.input_tokens == len(server.engine.requests[-1].prompt_ids)


def test_json_of_a_schema(client: anthropic.Anthropic) -> None:
    form: Any = {"format": {"type": "json_schema", "schema": TOOL["input_schema"]}}
    message = client.messages.create(model=MODEL, max_tokens=100, messages=say("x"), extra_body={"output_config": form})
    (block,) = message.content
    assert block.type == "text"
    assert block.text in ('{"city":"Rom"}', '{"city":"Bonn"}')


@pytest.mark.parametrize(
    ("fields", "kind", "named"),
    [
        ({"model": "other"}, "NotFoundError", "other"),
        ({"max_tokens": 0}, "BadRequestError", "max_tokens"),
        ({"messages": say("x" * 510)}, "BadRequestError", "context"),
        ({"mcp_servers": [{}]}, "BadRequestError", "mcp_servers"),
        ({"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]}, "BadRequestError",
         "messages"),
        ({"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "The"}]},
         "BadRequestError", "prefilled"),
        ({"tool_choice": {"type": "any"}}, "BadRequestError", "tools"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "BadRequestError", "tools"),
    ],
)  # fmt: skip
def test_errors(client: anthropic.Anthropic, fields: dict[str, Any], kind: str, named: str) -> None:
    body = {"model": MODEL, "max_tokens": 5, "messages": say("x"), **fields}
    with pytest.raises(getattr(anthropic, kind), match=named) as refusal:
        client.post("/v1/messages", body=body, cast_to=object)
    assert isinstance(refusal.value.body, dict)
    assert refusal.value.body["type"] == "error"


def test_a_tool_runner_is_told_to_send_the_whole_conversation(server: RunningServer) -> None:
    body = {
        "model": MODEL,
        "max_tokens": 9,
        "messages": [{"role": "user", "content": "a"}],
        "thread": {"type": "create"},
    }
    answer = httpx.post(f"{server.url}/v1/messages", json=body, headers={"x-api-key": "secret"})
    told = {"error_code": "thread_unsupported_request", "unsupported": ["thread"]}
    assert (answer.status_code, answer.json()["error"]["details"]) == (400, told)
    assert answer.headers["request-id"] == answer.headers["x-request-id"]


def test_the_key_is_wanted(server: RunningServer) -> None:
    body = {"model": MODEL, "max_tokens": 5, "messages": say("x")}
    answers = [
        httpx.post(f"{server.url}/v1/messages", json=body, headers=headers).status_code
        for headers in ({}, {"x-api-key": "wrong"}, {"x-api-key": "secret"}, {"authorization": "Bearer secret"})
    ]
    assert answers == [401, 401, 200, 200]
