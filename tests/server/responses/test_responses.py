"""The Responses API through the official client."""

from __future__ import annotations

import json
from collections.abc import Generator
from typing import Any

import openai
import pytest
from pydantic import BaseModel

from shoal.errors import InvalidRequest
from shoal.server.openai.body.fields import STRICT_FIELDS
from shoal.server.responses.schemas import ResponsesBody
from shoal.server.responses.store import ResponseStore, StoredResponse
from tests.server.anthropic.test_anthropic_client import CALL, TOOL, reply_to
from tests.server.fakes import FakeEngine
from tests.server.running_server import MODEL, RunningServer, run_server

WEATHER: Any = {
    "type": "function", "name": "weather", "description": "Of a city.", "parameters": TOOL["input_schema"],
}  # fmt: skip


@pytest.fixture(scope="module")
def server() -> Generator[RunningServer, None, None]:
    with run_server(FakeEngine(reply=reply_to)) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: RunningServer) -> Generator[openai.OpenAI, None, None]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def last_prompt(server: RunningServer) -> str:
    return bytes(server.engine.requests[-1].prompt_ids).decode()


def test_tokens_of_the_input(client: openai.OpenAI, server: RunningServer) -> None:
    first = client.responses.create(model=MODEL, instructions="Be brief.", input="say one")
    more: dict[str, Any] = {"model": MODEL, "input": "say two", "previous_response_id": first.id}
    count = client.responses.input_tokens.count(**more)
    assert client.responses.create(**more).usage.input_tokens == count.input_tokens  # type: ignore[union-attr]
    with pytest.raises(openai.NotFoundError):
        client.responses.input_tokens.count(model=MODEL, input="x", previous_response_id="resp_0")


def test_a_response(client: openai.OpenAI, server: RunningServer) -> None:
    response = client.responses.create(model=MODEL, instructions="Be brief.", input="say Grüße ✓")
    assert response.output_text == "Grüße ✓"
    assert response.status == "completed"
    assert last_prompt(server) == "<system>Be brief.<user>say Grüße ✓<assistant>"
    assert response.usage is not None
    assert response.usage.input_tokens == len(last_prompt(server).encode())
    assert response.usage.output_tokens == len("Grüße ✓".encode()) + 1


def test_a_stream_has_the_events_of_the_reference(client: openai.OpenAI) -> None:
    events = list(client.responses.create(model=MODEL, input="say abc", stream=True))
    kinds = [event.type for event in events]
    assert kinds[:4] == [
        "response.created", "response.in_progress", "response.output_item.added", "response.content_part.added",
    ]  # fmt: skip
    assert kinds[-4:] == [
        "response.output_text.done", "response.content_part.done", "response.output_item.done", "response.completed",
    ]  # fmt: skip
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == "abc"
    (last,) = [event.response for event in events if event.type == "response.completed"]
    assert last.output_text == "abc"


def test_the_clients_own_stream(client: openai.OpenAI) -> None:
    with client.responses.stream(model=MODEL, input="say abc") as stream:
        for _ in stream:
            pass
        assert stream.get_final_response().output_text == "abc"


def test_an_answer_that_is_cut(client: openai.OpenAI) -> None:
    response = client.responses.create(model=MODEL, input="say abcdef", max_output_tokens=3)
    assert response.status == "incomplete"
    assert response.incomplete_details is not None
    assert response.incomplete_details.reason == "max_output_tokens"
    assert response.output_text == "abc"


def test_a_call_its_result_and_the_answer(client: openai.OpenAI, server: RunningServer) -> None:
    first = client.responses.create(model=MODEL, input=f"say {CALL}", tools=[WEATHER])
    message, call = first.output
    assert message.type == "message"
    assert call.type == "function_call"
    assert (call.name, json.loads(call.arguments)) == ("weather", {"city": "Rom"})
    result: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "sunny, say fine"}
    second = client.responses.create(model=MODEL, previous_response_id=first.id, input=[result], tools=[WEATHER])
    assert second.output_text == "fine"
    assert '{"name": "weather", "arguments": {"city": "Rom"}}' in last_prompt(server)
    whole: list[Any] = [{"role": "user", "content": f"say {CALL}"}, *first.output, result]
    third = client.responses.create(model=MODEL, input=whole, tools=[WEATHER], store=False)
    assert third.output_text == "fine"


def test_a_streamed_call(client: openai.OpenAI) -> None:
    events = list(client.responses.create(model=MODEL, input=f"say {CALL}", tools=[WEATHER], stream=True))
    arguments = "".join(event.delta for event in events if event.type == "response.function_call_arguments.delta")
    assert json.loads(arguments) == {"city": "Rom"}


def test_functions_of_a_namespace(client: openai.OpenAI, server: RunningServer) -> None:
    """As Codex sends them: the client knows a call by namespace and name, the model by both in one."""
    space: Any = {"type": "namespace", "name": "sky", "description": "About the sky.", "tools": [WEATHER]}
    call = CALL.replace('"weather"', '"sky__weather"')
    first = client.responses.create(model=MODEL, input=f"say {call}", tools=[space])
    assert last_prompt(server).startswith("<tools>sky__weather<user>")
    _, called = first.output
    assert called.type == "function_call"
    assert (called.name, called.namespace) == ("weather", "sky")
    result: Any = {"type": "function_call_output", "call_id": called.call_id, "output": "sunny, say fine"}
    client.responses.create(model=MODEL, previous_response_id=first.id, input=[result], tools=[space])
    stored = last_prompt(server)
    assert "sky__weather" in stored.split("<user>")[1]
    whole: list[Any] = [{"role": "user", "content": f"say {call}"}, *first.output, result]
    client.responses.create(model=MODEL, input=whole, tools=[space], store=False)
    assert last_prompt(server) == stored


def test_hosted_tools_are_not_offered(client: openai.OpenAI, server: RunningServer) -> None:
    """As Codex sends one: nobody here searches the web, and the response does not say that the model could."""
    search: Any = {"type": "web_search", "external_web_access": True}
    response = client.responses.create(model=MODEL, input="say a", tools=[WEATHER, search], tool_choice="auto")
    assert last_prompt(server).startswith("<tools>weather<user>")
    assert [tool.type for tool in response.tools] == ["function"]
    with pytest.raises(InvalidRequest, match="web_search"):
        ResponsesBody.model_validate({"input": "x", "tools": [search]}, context={STRICT_FIELDS: True})


class City(BaseModel):
    city: str


def test_parsed_output(client: openai.OpenAI) -> None:
    form: Any = {"format": {"type": "json_schema", "name": "city", "schema": TOOL["input_schema"], "strict": True}}
    response = client.responses.create(model=MODEL, input="say x", text=form)
    assert City.model_validate_json(response.output_text).city in ("Rom", "Bonn")


def test_a_conversation_goes_on_from_what_is_stored(client: openai.OpenAI, server: RunningServer) -> None:
    first = client.responses.create(model=MODEL, instructions="One.", input="say a")
    second = client.responses.create(model=MODEL, instructions="Two.", previous_response_id=first.id, input="say b")
    assert last_prompt(server) == "<system>Two.<user>say a<assistant>a<user>say b<assistant>"
    assert client.responses.retrieve(second.id).output_text == "b"
    with pytest.raises(openai.BadRequestError, match="`stream`"):
        client.responses.retrieve(second.id, stream=True)
    client.responses.delete(second.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(second.id)
    unkept = client.responses.create(model=MODEL, input="say c", store=False)
    with pytest.raises(openai.NotFoundError, match="no response"):
        client.responses.create(model=MODEL, previous_response_id=unkept.id, input="x")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [{"type": "computer"}]}, "tools"),
        ({"tools": [{"type": "web_search"}], "tool_choice": {"type": "web_search"}}, "tool_choice"),
        ({"background": True}, "background"),
        ({"truncation": "auto"}, "truncation"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"include": ["message.output_text.logprobs"]}, "include"),
        ({"image": {"x": 1}}, "image"),
        ({"input": [{"type": "message", "role": "user", "content": [{"type": "input_image"}]}]}, "input"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
    ],
)
def test_what_cannot_be_used_is_named(client: openai.OpenAI, fields: dict[str, Any], param: str) -> None:
    with pytest.raises(openai.BadRequestError) as refusal:
        client.post("/responses", body={"model": MODEL, "input": "x", **fields}, cast_to=object)
    assert (refusal.value.param or "").startswith(param)


def test_the_store_has_bounds() -> None:
    store = ResponseStore(max_responses=3, max_chars=100)
    for name in "abcd":
        store.put(name, StoredResponse(response={}, messages=[{"content": "x" * 10}]))
        store.get("b")
    assert [name for name in "abcd" if store.get(name)] == ["b", "c", "d"]
    store.put("e", StoredResponse(response={}, messages=[{"content": "x" * 80}]))
    assert [name for name in "abcde" if store.get(name)] == ["e"]
