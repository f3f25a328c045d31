"""Streams whose model is still being loaded: they begin at once, and what goes wrong then is told in their own form."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack

import anthropic
import httpx
import ollama
import openai
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route

from shoal.server.http.draining import Drain
from shoal.server.openai.sse import EVENTS, Rhythm
from tests.server.fakes import FakeEngine
from tests.server.running_server import MODEL, run_server
from tests.server.switch.switched import AUTHORIZED, KEY, SERVER_KEY, Models, NoBackend, running, switched

NEVER_S = 1e6
AT_ONCE, NEVER = Rhythm(first_s=0.0, every_s=NEVER_S), Rhythm(first_s=NEVER_S, every_s=NEVER_S)
SLOW = "slow"
MESSAGES = [{"role": "user", "content": "{abc}"}]
CALLS = {
    "/v1/chat/completions": {"messages": MESSAGES, "stream": True},
    "/v1/completions": {"prompt": "{abc}", "stream": True},
    "/v1/responses": {"input": "{abc}", "stream": True},
    "/v1/messages": {"messages": MESSAGES, "stream": True, "max_tokens": 9},
    "/api/chat": {"messages": MESSAGES},
    "/api/generate": {"prompt": "{abc}", "raw": True},
}
"""every endpoint that streams texts; Ollama's do unless they are told not to"""


@pytest.fixture
def loading() -> Iterator[Models]:
    """Two models of which the second waits for its gate."""
    with ExitStack() as stack:
        servers = [
            stack.enter_context(run_server(FakeEngine(), api_key=SERVER_KEY, name=name)) for name in (MODEL, SLOW)
        ]
        yield Models({MODEL: servers[0].url, SLOW: servers[1].url}, gates={SLOW: threading.Event()})


def http(url: str) -> httpx.Client:
    return httpx.Client(base_url=url, headers=AUTHORIZED, timeout=30)


@pytest.mark.parametrize("path", CALLS)
def test_a_stream_begins_while_its_model_is_loaded(loading: Models, path: str) -> None:
    with (
        switched(loading, max_loaded=1, rhythm=AT_ONCE) as url,
        http(url) as client,
        client.stream("POST", path, json={"model": SLOW, **CALLS[path]}) as answer,
    ):
        pieces = answer.iter_raw()
        sign = next(pieces)
        loading.gates[SLOW].set()
        rest = b"".join(pieces)
    assert answer.status_code == 200
    if path.startswith("/api/"):
        assert answer.headers["content-type"] == "application/x-ndjson"
        lines = [json.loads(line) for line in (sign + rest).splitlines()]
        assert [line["done"] for line in lines] == [False] * (len(lines) - 1) + [True]
        assert {line["model"] for line in lines} == {SLOW}
    else:
        assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert sign == EVENTS.sign_of_life
        assert rest.startswith((b"data: ", b"event: "))
        assert rest.endswith(b"\n\n")


def test_real_clients_read_streams_that_began_before_their_model_was_there(loading: Models) -> None:
    with (
        switched(loading, max_loaded=1, rhythm=AT_ONCE) as url,
        openai.OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0) as client,
    ):
        chunks = client.completions.create(model=SLOW, prompt="{abc}", stream=True)
        loading.gates[SLOW].set()
        assert "".join(chunk.choices[0].text for chunk in chunks) == "abc"


def test_an_error_before_the_first_sign_of_life_has_a_status_of_its_own(loading: Models) -> None:
    loading.gates.clear()
    with switched(loading, max_loaded=1, rhythm=NEVER) as url, http(url) as client:
        wrong = client.post("/v1/completions", json={"model": SLOW, "prompt": "x", "stream": True, "n": -1})
        assert wrong.status_code == 400
        assert wrong.json()["error"]["param"] == "n"
        loading.broken.add(MODEL)
        lost = client.post("/v1/messages", json={"model": MODEL, **CALLS["/v1/messages"]})
        assert lost.status_code == 503
        assert lost.json()["error"]["type"] == "overloaded_error"


def test_real_clients_are_told_of_errors_behind_it(loading: Models) -> None:
    """What the model's server answers, and that there is none."""
    with (
        switched(loading, max_loaded=1, rhythm=AT_ONCE) as url,
        openai.OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0) as client,
        anthropic.Anthropic(base_url=url, api_key=KEY, max_retries=0) as messages,
        ollama.Client(host=url, headers=AUTHORIZED) as own,
    ):
        chunks = client.completions.create(model=SLOW, prompt="x", stream=True, n=-1)
        loading.gates[SLOW].set()
        with pytest.raises(openai.APIError, match="n: "):
            list(chunks)
        loading.broken.add(MODEL)
        with pytest.raises(openai.APIError, match="no memory"):
            list(client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "x"}], stream=True))
        (event,) = client.responses.create(model=MODEL, input="x", stream=True)
        assert event.type == "error"
        assert (event.code, event.sequence_number) == ("worker_lost", 0)
        assert "no memory" in event.message
        with pytest.raises(anthropic.APIStatusError, match="no memory"):
            messages.messages.create(
                model=MODEL, max_tokens=9, messages=[{"role": "user", "content": "x"}], stream=True
            ).__next__()
        with pytest.raises(ollama.ResponseError, match="no memory"):
            list(own.generate(model=MODEL, prompt="x", stream=True))


def test_a_request_that_only_loads_a_model_is_a_stream_of_one_line(loading: Models) -> None:
    with (
        switched(loading, max_loaded=1, rhythm=AT_ONCE) as url,
        ollama.Client(host=url, headers=AUTHORIZED) as own,
    ):
        lines = own.generate(model=SLOW, stream=True)
        loading.gates[SLOW].set()
        assert [line.done for line in lines] == [False, True]


async def break_off(request: Request) -> StreamingResponse:
    """In the place of a model's server: one event, half of another, and no end."""

    async def events() -> AsyncIterator[bytes]:
        yield b'event: response.created\ndata: {"a": 1}\n\nevent: response.ou'
        raise ConnectionError("gone")

    return StreamingResponse(events(), media_type="text/event-stream")


def test_a_stream_that_its_server_breaks_off_ends_with_an_error_behind_whole_events() -> None:
    app = Starlette(routes=[Route("/v1/responses", break_off, methods=["POST"])])
    app.state.backend, app.state.drain = NoBackend(), Drain()
    with (
        running(app) as server,
        switched(Models({MODEL: server}), rhythm=NEVER) as url,
        http(url) as client,
    ):
        answer = client.post("/v1/responses", json={"model": MODEL, "input": "x", "stream": True})
        first, last, end = answer.content.split(b"\n\n")
    assert first == b'event: response.created\ndata: {"a": 1}'
    name, data = last.split(b"\ndata: ")
    assert (name, end) == (b"event: error", b"")
    error = json.loads(data)
    assert (error["type"], error["sequence_number"], error["code"]) == ("error", 1, "worker_lost")


def test_signs_of_life_do_not_hide_a_server_that_stands_still(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes calls and answers none."""
    monkeypatch.setattr("shoal.server.switch.forwarding._SILENT_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as still:
        server = f"http://127.0.0.1:{still.getsockname()[1]}"
        with switched(Models({MODEL: server}), rhythm=AT_ONCE) as url, http(url) as client:
            answer = client.post("/v1/completions", json={"model": MODEL, "prompt": "x", "stream": True})
    sign, error, done, _ = answer.content.split(b"\n\n")
    assert (sign + b"\n\n", done) == (EVENTS.sign_of_life, b"data: [DONE]")
    assert b"has said nothing for 0.2 s" in error


def test_a_client_that_goes_away_wants_no_model_any_more(loading: Models) -> None:
    with switched(loading, max_loaded=1, rhythm=AT_ONCE) as url, http(url) as client:
        with client.stream("POST", "/v1/completions", json={"model": SLOW, **CALLS["/v1/completions"]}) as answer:
            next(answer.iter_raw())
        loading.gates[SLOW].set()
        body = {"model": MODEL, "prompt": "{abc}"}
        assert client.post("/v1/completions", json=body).status_code == 200, "the other makes room for it"


@pytest.mark.parametrize("streams", [False, True])
def test_waiting_for_a_model_counts_as_time_of_the_call(loading: Models, streams: bool) -> None:
    with switched(loading, max_loaded=1, rhythm=NEVER) as url, http(url) as client:
        asked = {"model": SLOW, "prompt": "{abc}", "stream": streams, "timeout": 0.05}
        answer = client.post("/v1/completions", json=asked)
        loading.gates[SLOW].set()
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    assert "the model was not loaded within 0.05 s" in answer.text


def test_the_server_of_a_model_gets_what_is_left_of_a_call_s_time() -> None:
    given: list[dict[str, object]] = []

    async def echo(request: Request) -> JSONResponse:
        given.append(await request.json())
        return JSONResponse({})

    app = Starlette(routes=[Route("/v1/completions", echo, methods=["POST"])])
    app.state.backend, app.state.drain = NoBackend(), Drain()
    with running(app) as inner, switched(Models({MODEL: inner})) as url, http(url) as client:
        for timeout in (1000, "soon", None, 10**400):
            client.post("/v1/completions", json={"model": MODEL, "prompt": "\u00e9", "timeout": timeout})
    assert [one["prompt"] for one in given] == ["\u00e9"] * 4
    left = given[0]["timeout"]
    assert isinstance(left, float)
    assert 0 < left <= 1000
    assert [one["timeout"] for one in given[1:]] == ["soon", None, 10**400]
