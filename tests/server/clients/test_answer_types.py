"""Every field that the types of today's clients demand of an answer is there, with a value of its type.

The clients themselves accept anything; those in other languages, whose types are the same, break where a field is
missing.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator
from pkgutil import resolve_name
from typing import Any, get_args

import httpx
import pytest
from pydantic import BaseModel, TypeAdapter

from tests.server.fakes import FakeEngine, ids
from tests.server.running_server import MODEL, RunningServer, run_server

CALL = '<tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call>'
TURNS = [{"role": "user", "content": "x"}]
TOOL = {"name": "f", "parameters": {"type": "object"}}
CHAT = {"messages": TURNS, "tools": [{"type": "function", "function": TOOL}]}
RESPONSE = {"input": "x", "tools": [{"type": "function", **TOOL}]}
MESSAGE = {"messages": TURNS, "max_tokens": 99, "tools": [{"name": "f", "input_schema": {"type": "object"}}]}


@pytest.fixture(scope="module", params=["text", CALL], ids=["text", "call"])
def server(request: pytest.FixtureRequest) -> Generator[RunningServer, None, None]:
    with run_server(FakeEngine(reply=lambda _: ids(request.param))) as running:
        yield running


def check(kind: str, answer: Any) -> None:
    TypeAdapter(resolve_name(kind)).validate_python(answer)


def ask(server: RunningServer, path: str, body: dict[str, Any]) -> Any:
    return httpx.post(server.url + path, json={"model": MODEL, **body}).raise_for_status().json()


def events(server: RunningServer, path: str, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
    answer = httpx.post(server.url + path, json={"model": MODEL, "stream": True, **body}).raise_for_status()
    told = [line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith("data: ")]
    assert told
    return (json.loads(one) for one in told if one != "[DONE]")


def of_type(union: Any, name: str) -> type[BaseModel]:
    """The member of a union of events with this `type`."""
    members = get_args(get_args(resolve_name(union))[0])
    return next(one for one in members if name in get_args(one.model_fields["type"].annotation))


@pytest.mark.parametrize("more", [{}, {"logprobs": True, "top_logprobs": 2}, {"n": 2}])
def test_chat(server: RunningServer, more: dict[str, Any]) -> None:
    check("openai.types.chat:ChatCompletion", ask(server, "/v1/chat/completions", {**CHAT, **more}))
    usage = {"stream_options": {"include_usage": True}}
    for chunk in events(server, "/v1/chat/completions", {**CHAT, **more, **usage}):
        check("openai.types.chat:ChatCompletionChunk", chunk)


def test_completions(server: RunningServer) -> None:
    check("openai.types:Completion", ask(server, "/v1/completions", {"prompt": "x", "logprobs": 2}))


@pytest.mark.parametrize("more", [{}, {"max_output_tokens": 1}])
def test_responses(server: RunningServer, more: dict[str, Any]) -> None:
    check("openai.types.responses:Response", ask(server, "/v1/responses", {**RESPONSE, **more}))
    for event in events(server, "/v1/responses", {**RESPONSE, **more}):
        of_type("openai.types.responses:ResponseStreamEvent", event["type"]).model_validate(event)


def test_messages(server: RunningServer) -> None:
    check("anthropic.types:Message", ask(server, "/v1/messages", MESSAGE))
    for event in events(server, "/v1/messages", MESSAGE):
        if event["type"] != "ping":
            of_type("anthropic.types:RawMessageStreamEvent", event["type"]).model_validate(event)


def test_the_list_of_models_is_one_of_openai_and_of_anthropic(server: RunningServer) -> None:
    listed = httpx.get(f"{server.url}/v1/models").json()
    assert (listed["has_more"], listed["first_id"], listed["last_id"]) == (False, MODEL, MODEL)
    for card in (listed["data"][0], httpx.get(f"{server.url}/v1/models/{MODEL}").json()):
        check("openai.types:Model", card)
        check("anthropic.types:ModelInfo", card)


def test_ollama(server: RunningServer) -> None:
    check("ollama._types:ChatResponse", ask(server, "/api/chat", {"messages": TURNS, "stream": False}))
    check("ollama._types:ShowResponse", ask(server, "/api/show", {}))
    for path, kind in (("tags", "ListResponse"), ("ps", "ProcessResponse")):
        check(f"ollama._types:{kind}", httpx.get(f"{server.url}/api/{path}").json())
