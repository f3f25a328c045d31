"""Adapters by the names of models, through each dialect's official client."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import anthropic
import httpx
import ollama
import openai
import pytest

from shoal.core.sequences.request import Request
from tests.server.fakes import FakeEngine, ids
from tests.server.running_server import MODEL, RunningServer, run_server

ADAPTERS = ("pirate", "lawyer")
NAMES = {MODEL: -1, "pirate": 0, "lawyer": 1}
ASKED: Any = [{"role": "user", "content": "hello"}]


def reply_to(request: Request) -> list[int]:
    """Which adapter computes it."""
    return ids(f"adapter {request.adapter}")


@pytest.fixture(scope="module")
def server() -> Generator[RunningServer, None, None]:
    with run_server(FakeEngine(reply=reply_to), adapters=ADAPTERS) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: RunningServer) -> Generator[openai.OpenAI, None, None]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.mark.parametrize(("name", "number"), NAMES.items())
def test_openai(client: openai.OpenAI, name: str, number: int) -> None:
    chat = client.chat.completions.create(model=name, messages=ASKED, max_tokens=20)
    assert (chat.model, chat.choices[0].message.content) == (name, f"adapter {number}")
    text = client.completions.create(model=name, prompt=["a", "b"], n=2, max_tokens=20)
    assert (text.model, {choice.text for choice in text.choices}) == (name, {f"adapter {number}"})
    chunks = list(client.chat.completions.create(model=name, messages=ASKED, max_tokens=20, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == f"adapter {number}"
    assert {chunk.model for chunk in chunks} == {name}
    response = client.responses.create(model=name, input="hello", max_output_tokens=20)
    assert (response.model, response.output_text) == (name, f"adapter {number}")


def test_openai_lists_adapters_with_their_parent(client: openai.OpenAI) -> None:
    cards = [card.model_dump() for card in client.models.list()]
    assert [(card["id"], card["parent"], card["root"]) for card in cards] == [
        (MODEL, None, MODEL),
        ("pirate", MODEL, MODEL),
        ("lawyer", MODEL, MODEL),
    ]
    assert client.models.retrieve("lawyer").model_dump()["parent"] == MODEL


def test_openai_knows_no_other(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="judge"):
        client.chat.completions.create(model="judge", messages=ASKED)
    with pytest.raises(openai.NotFoundError, match="judge"):
        client.models.retrieve("judge")


@pytest.mark.parametrize(("name", "number"), NAMES.items())
def test_anthropic(server: RunningServer, name: str, number: int) -> None:
    with anthropic.Anthropic(base_url=server.url, api_key="none", max_retries=0) as client:
        message = client.messages.create(model=name, max_tokens=20, messages=ASKED)
        assert client.messages.count_tokens(model=name, messages=ASKED).input_tokens > 0
    assert (message.model, message.content[0].to_dict()["text"]) == (name, f"adapter {number}")


@pytest.mark.parametrize(("name", "number"), NAMES.items())
def test_ollama(server: RunningServer, name: str, number: int) -> None:
    with ollama.Client(server.url) as client:
        answer = client.chat(f"{name}:latest", ASKED)
        assert (answer.model, answer.message.content) == (name, f"adapter {number}")
        assert client.generate(name, "hello").response == f"adapter {number}"
        assert client.show(name).details is not None


def test_ollama_lists_adapters_with_their_parent(server: RunningServer) -> None:
    with ollama.Client(server.url) as client:
        models = client.list().models
        assert [one.model for one in models] == [MODEL, *ADAPTERS]
        assert [one.details.parent_model for one in models if one.details] == ["", MODEL, MODEL]
        with pytest.raises(ollama.ResponseError) as refused:
            client.generate("judge", "hello")
    assert refused.value.status_code == 404


def test_tokens_are_those_of_the_model(server: RunningServer) -> None:
    counts = [
        httpx.post(f"{server.url}/tokenize", json={"model": name, "prompt": "hello"}).json()["count"] for name in NAMES
    ]
    assert len({*counts}) == 1
    assert httpx.post(f"{server.url}/tokenize", json={"model": "judge", "prompt": "hello"}).status_code == 404
