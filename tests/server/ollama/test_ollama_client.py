"""Ollama's official client, unchanged, against a real server."""

from __future__ import annotations

import json
import re
from collections.abc import Generator
from typing import Any

import httpx
import ollama
import pytest

from shoal.server.ollama.schemas import Options
from tests.server.fakes import FakeEngine, ids
from tests.server.running_server import MODEL, RunningServer, run_server

WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


def reply_to(request: Any) -> list[int]:
    """What stands behind `say` in the last turn, with braces for brackets."""
    prompt = bytes(token_id for token_id in request.prompt_ids if token_id < 256).decode()
    said = prompt.rpartition("say ")[2].partition("<assistant>")[0]
    return ids(said.replace("[[", "{").replace("]]", "}"))


@pytest.fixture(scope="module")
def server() -> Generator[RunningServer, None, None]:
    with run_server(FakeEngine(reply=reply_to), api_key="secret", strict_fields=True) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: RunningServer) -> Generator[ollama.Client, None, None]:
    with ollama.Client(host=server.url, headers={"authorization": "Bearer secret"}) as client:
        yield client


def say(text: str) -> list[Any]:
    return [{"role": "user", "content": f"say {text}"}]


def last_prompt(server: RunningServer) -> str:
    return bytes(server.engine.requests[-1].prompt_ids).decode()


def test_a_chat(client: ollama.Client, server: RunningServer) -> None:
    messages = [{"role": "system", "content": "Be brief."}, *say("Grüße ✓")]
    answer = client.chat(model=f"{MODEL}:latest", messages=messages)
    assert (answer.message.role, answer.message.content) == ("assistant", "Grüße ✓")
    assert (answer.model, answer.done, answer.done_reason) == (MODEL, True, "stop")
    prompt = last_prompt(server)
    assert prompt == "<system>Be brief.<user>say Grüße ✓<assistant>"
    assert (answer.prompt_eval_count, answer.eval_count) == (len(prompt.encode()), len("Grüße ✓".encode()) + 1)
    assert answer.prompt_eval_duration
    assert answer.total_duration
    assert answer.total_duration >= answer.prompt_eval_duration


def test_a_stream(client: ollama.Client) -> None:
    pieces = list(client.chat(model=MODEL, messages=say("Grüße ✓"), stream=True))
    assert "".join(piece.message.content or "" for piece in pieces) == "Grüße ✓"
    assert [piece.done for piece in pieces] == [False] * (len(pieces) - 1) + [True]


def test_what_is_drawn_where_nothing_is_said(client: ollama.Client, server: RunningServer) -> None:
    client.chat(model=MODEL, messages=say("a"))
    sampling = server.engine.requests[-1].sampling
    assert (sampling.temperature, sampling.top_k, sampling.top_p) == (0.8, 40, 0.9)


def test_options(client: ollama.Client, server: RunningServer) -> None:
    options = {"temperature": 0, "seed": 7, "num_predict": 3, "num_ctx": 512, "repeat_penalty": 1.0, "num_thread": 2}
    answer = client.generate(model=MODEL, prompt="say abcdef", options=options)
    assert (answer.response, answer.done_reason) == ("abc", "length")
    request = server.engine.requests[-1]
    assert (request.sampling.temperature, request.sampling.seed) == (0, 7)
    assert client.generate(model=MODEL, prompt="say abcdef", options={"stop": ["d"]}).response == "abc"


def test_a_question_and_a_text(client: ollama.Client, server: RunningServer) -> None:
    assert client.generate(model=MODEL, prompt="say a", system="Be brief.").response == "a"
    assert last_prompt(server) == "<system>Be brief.<user>say a<assistant>"
    streamed = client.generate(model=MODEL, prompt="say ab", raw=True, stream=True)
    assert "".join(piece.response or "" for piece in streamed) == "ab"
    assert last_prompt(server) == "say ab"


@pytest.mark.parametrize("streams", [False, True])
def test_a_call_of_a_tool(client: ollama.Client, server: RunningServer, streams: bool) -> None:
    call = 'I look. <tool_call>\n[["name": "weather", "arguments": [["city": "Rom"]]]]\n</tool_call>'
    answered: Any = client.chat(model=MODEL, messages=say(call), tools=[WEATHER], stream=streams)  # type: ignore[call-overload]
    pieces: list[Any] = list(answered) if streams else [answered]
    messages: list[ollama.Message] = [piece.message for piece in pieces]
    assert "".join(message.content or "" for message in messages) == "I look. "
    (found,) = [one for message in messages for one in message.tool_calls or ()]
    assert (found.function.name, found.function.arguments) == ("weather", {"city": "Rom"})
    earlier = ollama.Message(role="assistant", content="", tool_calls=[found])
    result = ollama.Message(role="tool", tool_name="weather", content="sunny")
    client.chat(model=MODEL, messages=[*say("x"), earlier, result, *say("thanks")], tools=[WEATHER])
    prompt = last_prompt(server)
    assert '"name": "weather", "arguments": {"city": "Rom"}' in prompt
    assert "<tool>sunny" in prompt


def test_a_schema(client: ollama.Client) -> None:
    schema = {"type": "object", "properties": {"n": {"enum": [1, 2]}}, "required": ["n"], "additionalProperties": False}
    answer = client.chat(model=MODEL, messages=say("no"), format=schema)
    assert json.loads(answer.message.content or "")["n"] in (1, 2)
    assert isinstance(json.loads(client.generate(model=MODEL, prompt="say [[", format="json").response or ""), dict)


def test_log_probabilities(client: ollama.Client) -> None:
    answer = client.chat(model=MODEL, messages=say("ab"), logprobs=True, top_logprobs=1)
    assert [one.token for one in answer.logprobs or ()] == ["a", "b"]
    assert all(one.top_logprobs for one in answer.logprobs or ())


def test_the_model(client: ollama.Client, server: RunningServer) -> None:
    (listed,) = client.list().models
    assert listed.model == MODEL
    assert [one.context_length for one in client.ps().models] == [server.data_plane.max_context]
    shown = client.show(MODEL)
    assert shown.capabilities == ["completion", "tools"]
    assert httpx.get(f"{server.url}/api/version", headers={"authorization": "Bearer secret"}).json()["version"]


def test_loading_is_nothing_to_do(client: ollama.Client) -> None:
    assert client.generate(model=MODEL, prompt="").done_reason == "load"
    assert client.chat(model=MODEL, messages=[]).done_reason == "load"
    with pytest.raises(ollama.ResponseError, match="stays loaded"):
        client.generate(model=MODEL, prompt="", keep_alive=0)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"options": {"repeat_penalty": 0}}, r"repeat_penalty"),
        ({"options": {"mirostat": 2}}, r"options\.mirostat"),
        ({"options": {"temprature": 1}}, r"did you mean `options\.temperature`"),
        ({"options": {"num_ctx": 100_000}}, "512 tokens of context"),
        ({"template": "x"}, "template"),
        ({"images": ["aGk="]}, "text only"),
        ({"context": [1]}, "context"),
        ({"format": "yaml"}, "JSON schema"),
        ({"streem": False}, "did you mean `stream`"),
    ],
)
def test_what_is_not_there_is_named(server: RunningServer, fields: dict[str, Any], named: str) -> None:
    body = {"model": MODEL, "prompt": "say a", **fields}
    answer = httpx.post(f"{server.url}/api/generate", json=body, headers={"authorization": "Bearer secret"})
    assert answer.status_code == 400
    assert re.search(named, answer.json()["error"])


def test_another_model_and_other_endpoints(client: ollama.Client, server: RunningServer) -> None:
    with pytest.raises(ollama.ResponseError, match="`other` does not exist") as refused:
        client.chat(model="other", messages=say("a"))
    assert refused.value.status_code == 404
    with pytest.raises(ollama.ResponseError, match="started with"):
        client.pull("other")
    assert client.pull(f"{MODEL}:latest").status == "success"
    assert [step.status for step in client.pull(MODEL, stream=True)] == ["success"]
    assert httpx.get(f"{server.url}/api/tags").status_code == 401


@pytest.mark.parametrize(
    ("options", "window"),
    [
        ({"repeat_penalty": 1.1}, 64),
        ({"repeat_penalty": 1.1, "repeat_last_n": 8}, 8),
        ({"repeat_penalty": 1.1, "repeat_last_n": -1}, 0),
        ({"repeat_penalty": 1.1, "repeat_last_n": 0}, None),
        ({"repeat_last_n": 8}, None),
    ],
)
def test_a_penalty_is_for_the_latest_tokens(options: dict[str, Any], window: int | None) -> None:
    fields = Options.model_validate(options).fields()
    assert fields.get("repetition_window") == window
    assert fields.get("repetition_penalty") == (None if window is None else 1.1)
