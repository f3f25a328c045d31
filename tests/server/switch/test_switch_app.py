"""Several models behind one address: the real app and real servers of single models, over fake engines."""

from __future__ import annotations

import asyncio
import signal
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import anthropic
import httpx
import ollama
import openai
import pytest
from starlette.applications import Starlette
from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from shoal.server.assembly import AppOptions
from shoal.server.http.draining import Drain
from shoal.server.http.serve import AppServer, bind
from shoal.server.switch.app import create_switch_app
from shoal.server.switch.switchboard import Switchboard
from tests.server.fakes import FakeEngine
from tests.server.running_server import MODEL, run_server
from tests.server.switch.switched import AUTHORIZED, KEY, SERVER_KEY, FakeServer, Models, NoBackend, running, switched
from tests.server.web.plans import page as page_options

CROWD = 110
"""more than an HTTP client has connections by default"""


PAGES = ("https://app.example", "http://shoal.example:8000")
"""another site that may use the server, and the server's own page under a name that it has"""


@pytest.mark.parametrize("origin", PAGES)
def test_pages_that_may_ask_reach_a_model_on_this_machine_alone(origin: str) -> None:
    """Who may is this server's to say, not that of a model's server, which knows no such names."""
    options = AppOptions(api_key=KEY, allowed_hosts=("shoal.example",), cors_origins=PAGES[:1])
    with ExitStack() as stack:
        server = stack.enter_context(run_server(FakeEngine(), api_key=SERVER_KEY, allowed_hosts=()))
        board = Switchboard([MODEL], Models({MODEL: server.url}).start)
        url = stack.enter_context(running(create_switch_app(board, server_key=SERVER_KEY, options=options)))
        client = stack.enter_context(http(url))
        body = {"model": MODEL, "prompt": "{abc}"}
        headers = {"origin": origin, "sec-fetch-site": "cross-site" if origin == PAGES[0] else "same-origin"}
        assert client.post("/v1/completions", json=body, headers=headers).json()["choices"][0]["text"] == "abc"
        other = client.post("/v1/completions", json=body, headers={"origin": "https://evil.example"})
        assert other.status_code == 403


def test_a_server_that_does_not_answer_keeps_nothing_from_the_others(models: Models) -> None:
    models.urls["other"] = "http://127.0.0.1:9"
    with switched(models) as url, http(url) as client:
        assert [card["name"] for card in client.get("/api/ps").json()["models"]] == [MODEL]
        assert client.get("/v1/responses/resp_none").status_code == 404


def http(url: str) -> httpx.Client:
    return httpx.Client(base_url=url, headers=AUTHORIZED, timeout=30)


def test_real_clients_of_every_dialect_reach_their_model(models: Models) -> None:
    with (
        switched(models) as url,
        openai.OpenAI(base_url=f"{url}/v1", api_key=KEY) as client,
        anthropic.Anthropic(base_url=url, api_key=KEY) as messages,
        ollama.Client(host=url, headers=AUTHORIZED) as own,
    ):
        answer = client.completions.create(model=MODEL, prompt="{abc}")
        assert answer.choices[0].text == "abc"
        chunks = client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "{abc}"}], stream=True
        )
        assert "abc" in "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        assert [model.id for model in client.models.list()] == [MODEL, "other"]
        assert client.models.retrieve("other").id == "other"
        message = messages.messages.create(model=MODEL, max_tokens=9, messages=[{"role": "user", "content": "{abc}"}])
        assert message.content[0].type == "text"
        assert own.generate(model=f"{MODEL}:latest", prompt="{abc}", raw=True).response == "abc"
        assert [model.model for model in own.list().models] == [MODEL, "other"]
        stored = client.responses.create(model=MODEL, input="{abc}")
        assert client.responses.retrieve(stored.id).id == stored.id
        with pytest.raises(openai.NotFoundError):
            client.responses.retrieve("resp_none")


def test_without_the_key_nothing_is_passed_on(models: Models) -> None:
    with switched(models) as url:
        for path in ("/v1/completions", "/tokenize", "/status"):
            method = "GET" if path == "/status" else "POST"
            assert httpx.request(method, url + path, json={"model": MODEL, "prompt": "x"}).status_code == 401


@pytest.mark.parametrize(
    ("content", "status", "named"),
    [
        (b'{"prompt": "x"}', 400, "in `model`"),
        (b'{"model": "nope"}', 404, "nope"),
        (b'{"model": ["x"]}', 404, "x"),
        (b"{", 400, "not JSON"),
    ],
)
def test_calls_that_name_no_model_here(models: Models, content: bytes, status: int, named: str) -> None:
    with switched(models) as url, http(url) as client:
        answer = client.post("/v1/completions", content=content)
        assert answer.status_code == status
        assert named in answer.json()["error"]["message"]


async def hear(request: Request) -> JSONResponse:
    """In the place of a model's server: what came of a form."""
    async with request.form() as form:
        sound = form["file"]
        assert isinstance(sound, UploadFile)
        return JSONResponse({"text": f"{form['model']} {form['language']} {len(await sound.read())}"})


@pytest.fixture
def ears() -> Iterator[str]:
    """A switch before a server that hears, and one that is never asked."""
    app = Starlette(routes=[Route("/v1/audio/{task}", hear, methods=["POST"])])
    app.state.backend, app.state.drain = NoBackend(), Drain()
    with running(app) as url, switched(Models({"ear": url, "other": "http://127.0.0.1:9"})) as switch:
        yield switch


def test_sound_goes_to_the_model_that_its_form_names(ears: str) -> None:
    """20 MB, as OpenAI's client sends them, and with the file before the name, as curl users do."""
    sound = b"\r\n--x\r\n" * 2_500_000
    with openai.OpenAI(base_url=f"{ears}/v1", api_key=KEY, max_retries=0) as client, http(ears) as plain:
        heard = client.audio.transcriptions.create(model="ear", file=("a.wav", sound), language="de")
        assert heard.text == f"ear de {len(sound)}"
        parts = [("file", ("model", b"model=x")), ("model", (None, "ear")), ("language", (None, "fr"))]
        assert plain.post("/v1/audio/translations", files=parts).json() == {"text": "ear fr 7"}


@pytest.mark.parametrize(
    ("files", "status", "named"),
    [
        ({"file": ("a.wav", b"x")}, 400, "in `model`"),
        ({"model": (None, "nope")}, 404, "nope"),
        ({"model": (None, "e" * 2000)}, 400, "longer than 1000 bytes"),
        ({"model": (None, "ear"), "file": ("a.wav", bytes(65 << 20))}, 413, "larger than"),
    ],
)
def test_forms_that_name_no_model_here(ears: str, files: dict[str, object], status: int, named: str) -> None:
    with http(ears) as client:
        answer = client.post("/v1/audio/transcriptions", files=files)  # pyright: ignore[reportArgumentType]
        assert answer.status_code == status
        assert named in answer.json()["error"]["message"]


def test_bodies_that_are_no_forms(ears: str) -> None:
    with http(ears) as client:
        for kind, content in (("multipart/form-data", b"x"), ("multipart/form-data; boundary=x", b"nonsense")):
            answer = client.post("/v1/audio/transcriptions", content=content, headers={"content-type": kind})
            assert answer.status_code == 400
            assert "not a form" in answer.json()["error"]["message"]
        form = {"file": ("a", bytes(9 << 20)), "model": (None, "ear")}
        assert client.post("/v1/completions", files=form).status_code == 413, "only sound may be so large"


def test_one_model_takes_the_place_of_the_other(models: Models) -> None:
    with switched(models, max_loaded=1) as url, http(url) as client:
        states = [model["state"] for model in client.get("/v1/models").json()["data"]]
        assert states == ["loaded", "unloaded"]
        assert client.post("/tokenize", json={"model": "other", "prompt": "x"}).status_code == 404, "its own server's"
        assert models.started == [MODEL, "other"]
        states = [model["state"] for model in client.get("/v1/models").json()["data"]]
        assert states == ["unloaded", "loaded"]


def test_a_model_that_cannot_be_loaded_is_told_and_tried_again(models: Models) -> None:
    models.broken.add("other")
    with switched(models) as url, http(url) as client:
        answer = client.post("/v1/completions", json={"model": "other", "prompt": "x"})
        assert answer.status_code == 503
        assert "no memory" in answer.json()["error"]["message"]
        assert client.post("/api/generate", json={"model": "other"}).json() == {
            "error": answer.json()["error"]["message"]
        }
        assert models.started.count("other") == 3
        assert client.get("/ready").status_code == 200


def test_a_fault_of_our_own_while_a_model_is_loaded_leaves_no_call_waiting(models: Models) -> None:
    models.broken.add("other")
    models.error = KeyError("nobody thought of this")
    with switched(models) as url, http(url) as client:
        answer = client.post("/v1/completions", json={"model": "other", "prompt": "x"})
        assert answer.status_code == 503
        assert "KeyError: 'nobody thought of this'" in answer.json()["error"]["message"]


def test_a_crowd_reaches_its_model_at_once() -> None:
    """How many calls are taken is the model's own server's to say."""
    engine = FakeEngine(stall_after=0)
    with ExitStack() as stack:
        server = stack.enter_context(run_server(engine, api_key=SERVER_KEY))
        url = stack.enter_context(switched(Models({MODEL: server.url})))
        limits = httpx.Limits(max_connections=None)
        client = stack.enter_context(httpx.Client(base_url=url, limits=limits, timeout=30, headers=AUTHORIZED))
        pool = stack.enter_context(ThreadPoolExecutor(CROWD))
        body = {"model": MODEL, "prompt": "{abc}"}
        calls = [pool.submit(client.post, "/v1/completions", json=body) for _ in range(CROWD)]
        reached = [engine.added.acquire(timeout=30) for _ in range(CROWD)]
        engine.release()
        answers = [call.result() for call in calls]
    assert all(reached)
    assert {answer.status_code for answer in answers} == {200}


def test_a_server_that_ends_by_itself_is_started_again(models: Models) -> None:
    with switched(models) as url, http(url) as client:
        loop_server = models.servers[0]
        loop_server.ended.set()  # noticed by the loop at the next call at the latest
        for _ in range(2):
            answer = client.post("/v1/completions", json={"model": MODEL, "prompt": "{abc}"})
            assert answer.json()["choices"][0]["text"] == "abc"


@pytest.mark.parametrize(("num_dead", "status"), [(1, 200), (2, 503)])
def test_a_call_whose_server_has_just_ended_goes_to_the_next_one_once(
    models: Models, num_dead: int, status: int
) -> None:
    models.dying = range(1, 1 + num_dead)
    with switched(models, max_loaded=1) as url, http(url) as client:
        answer = client.post("/v1/completions", json={"model": "other", "prompt": "{abc}"})
        assert answer.status_code == (404 if status == 200 else 503), "its own server's answer, or none"
        assert models.started == [MODEL, "other", "other"]


@pytest.mark.parametrize(("num_killed", "status"), [(1, 404), (2, 503)])
def test_a_model_that_is_killed_while_it_loads_is_tried_again_for_the_call_that_waits(
    models: Models, num_killed: int, status: int
) -> None:
    models.killed = range(1, 1 + num_killed)
    with switched(models, max_loaded=1) as url, http(url) as client:
        answer = client.post("/v1/completions", json={"model": "other", "prompt": "{abc}"})
        assert answer.status_code == status, "its own server's answer, or none"
        assert status == 404 or "killed while it loaded" in answer.json()["error"]["message"]
        assert models.started == [MODEL, "other", "other"]


def test_a_client_that_goes_away_ends_its_call() -> None:
    engine = FakeEngine(stall_after=0)
    with ExitStack() as stack:
        server = stack.enter_context(run_server(engine, api_key=SERVER_KEY))
        url = stack.enter_context(switched(Models({MODEL: server.url})))
        address = httpx.URL(url)
        with socket.create_connection((address.host, address.port)) as client:
            body = f'{{"model": "{MODEL}", "prompt": "x"}}'
            head = f"POST /v1/completions HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {KEY}\r\n"
            client.sendall(f"{head}content-length: {len(body)}\r\n\r\n{body}".encode())
            assert engine.added.acquire(timeout=30)
        assert engine.cancel_seen.wait(30)


def test_a_signal_ends_a_server_that_still_loads_its_models() -> None:
    begun, told = threading.Event(), list[str]()

    async def load_for_ever(name: str) -> FakeServer:
        begun.set()
        await asyncio.Event().wait()
        return FakeServer("")

    board = Switchboard([MODEL], load_for_ever)
    app = create_switch_app(board, server_key=SERVER_KEY, options=AppOptions())
    server = AppServer(app, on_started=lambda: told.append("serving"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bind("127.0.0.1", 0)]}, daemon=True)
    thread.start()
    assert begun.wait(30)
    server.handle_exit(signal.SIGTERM, None)
    thread.join(30)
    assert not thread.is_alive()
    assert told == []


def test_what_is_known_of_all_is_told_together(models: Models) -> None:
    with switched(models, max_loaded=1) as url, http(url) as client:
        told = client.get("/status").json()["models"]
        assert told[0]["name"] == MODEL
        assert told[1] == {"name": "other", "kind": "language model", "state": "unloaded"}
        client.post("/v1/completions", json={"model": MODEL, "prompt": "{abc}"}, headers={"x-request-id": "mine"})
        assert "shoal:generation_tokens_total" in client.get("/metrics").text
        assert client.get("/status/story", params={"of": "0"}).json() == {"entries": []}


def test_the_page_shows_models_that_are_loaded_and_others(models: Models) -> None:
    with switched(models, max_loaded=1, page=page_options()) as url, http(url) as client:
        assert "<script" in client.get("/").text
        assert [model["name"] for model in client.get("/status/page").json()["models"]] == [MODEL, "other"]
        wanted = {MODEL: [0.25], "other": [None]}
        series = client.get("/status/history").json()["models"]
        assert {one["name"]: one["kv_usage"][-1:] for one in series} == wanted
        assert httpx.get(f"{url}/status/page").status_code == 401
