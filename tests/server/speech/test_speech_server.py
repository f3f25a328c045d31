"""`shoal serve` over a Whisper model: OpenAI's own client in every form, bad sounds, and workers that die."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import openai
import pytest

from tests.integration.running import kill
from tests.integration.served import Served, served, wait_until
from tests.model.tiny_models import make_tiny_gguf
from tests.model.tiny_whisper import make_tiny_whisper
from tests.speech.sounds import sound_file, tone

SOUNDS = [sound_file(tone(seconds)) for seconds in (0.3, 0.6, 0.9)]
WINDOW_S = 0.96
"""of the model, which is random: its times lie anywhere within one that begins before the sound ends"""
NUM_REQUESTS = 3
"""At once, before a worker dies and again after it: one of each sound."""
TRANSCRIPTIONS = "/v1/audio/transcriptions"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_whisper(tmp_path_factory.mktemp("whisper"))


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Served]:
    with served(folder, "--max-audio", "2", "--max-request", "200K") as server:
        yield server


@pytest.fixture
def client(server: Served) -> Iterator[openai.OpenAI]:
    with client_of(server) as client:
        yield client


def client_of(server: Served) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="x", max_retries=0)


def test_every_form_says_the_same(client: openai.OpenAI) -> None:
    ask = client.audio.transcriptions.create
    common = {"model": "tiny", "file": ("tone.wav", SOUNDS[2]), "language": "en"}
    text = ask(**common).text
    assert text
    assert ask(**common, response_format="text").strip() == text
    verbose = ask(**common, response_format="verbose_json", timestamp_granularities=["segment"])
    assert verbose.text == text
    assert verbose.language == "english"
    assert verbose.duration == pytest.approx(0.9)
    assert "".join(segment.text for segment in verbose.segments).strip() == text
    assert all(0 <= one.start < one.end <= 0.9 + WINDOW_S for one in verbose.segments)
    short = ask(**{**common, "file": ("tone.wav", SOUNDS[0])}).usage
    assert (short.type, short.seconds) == ("duration", 1)
    assert ask(**common, response_format="srt").startswith("1\n00:00:00,")
    assert ask(**common, response_format="vtt").startswith("WEBVTT\n\n00:00:00.")


def test_words_have_times(client: openai.OpenAI) -> None:
    common = {"model": "tiny", "file": ("tone.wav", SOUNDS[2]), "language": "en", "response_format": "verbose_json"}
    both = client.audio.transcriptions.create(**common, timestamp_granularities=["word", "segment"])
    assert both.words
    assert both.segments
    starts = [word.start for word in both.words]
    assert starts == sorted(starts)
    assert all(0 <= word.start <= word.end <= 0.9 for word in both.words)
    assert "".join("".join(word.word for word in both.words).split()) == "".join(both.text.split())
    alone = client.audio.transcriptions.create(**common, timestamp_granularities=["word"])
    assert (alone.words, alone.segments) == (both.words, None)


def test_a_stream_adds_up_to_the_text(client: openai.OpenAI) -> None:
    common = {"model": "tiny", "file": ("tone.wav", SOUNDS[2]), "language": "en"}
    events = list(client.audio.transcriptions.create(**common, stream=True))
    assert [event.type for event in events] == ["transcript.text.delta"] * (len(events) - 1) + ["transcript.text.done"]
    whole = events[-1].text
    assert whole == client.audio.transcriptions.create(**common).text
    assert "".join(event.delta for event in events[:-1]).rstrip() == whole


def test_the_language_is_found_out_and_translated(server: Served, client: openai.OpenAI) -> None:
    sound = ("tone.wav", SOUNDS[1])
    found = client.audio.transcriptions.create(model="tiny", file=sound, response_format="verbose_json")
    assert found.language in ("english", "german", "french")
    translation = httpx.post(f"{server.url}/v1/audio/translations", files={"file": sound}, timeout=60)
    assert translation.json()["text"] != found.text
    prompted = client.audio.transcriptions.create(model="tiny", file=sound, language="German", prompt="A shoal is")
    assert prompted.text != client.audio.transcriptions.create(model="tiny", file=sound, language="German").text
    assert [model.id for model in client.models.list()] == ["tiny"]


@pytest.mark.parametrize(
    ("content", "fields", "status", "param"),
    [
        (b"no sound at all", {}, 400, "file"),
        (b"", {}, 400, "file"),
        (sound_file(tone(3.0)), {}, 400, "file"),
        (sound_file(tone(8.0)), {}, 413, None),
        (SOUNDS[0], {"model": "other"}, 404, "model"),
        (SOUNDS[0], {"language": "klingon"}, 400, "language"),
        (SOUNDS[0], {"response_format": "xml"}, 400, "response_format"),
        (SOUNDS[0], {"beam_size": "30"}, 400, "beam_size"),
        (SOUNDS[0], {"temperature": "7", "stream": "true"}, 400, "temperature"),
        (SOUNDS[0], {"language": "klingon", "stream": "true"}, 400, "language"),
    ],
)
def test_what_cannot_be_transcribed(
    server: Served, content: bytes, fields: dict[str, str], status: int, param: str | None
) -> None:
    answer = httpx.post(f"{server.url}{TRANSCRIPTIONS}", data=fields, files={"file": ("a.wav", content)}, timeout=60)
    assert answer.status_code == status
    error = answer.json()["error"]
    assert error["param"] == param
    assert "\n" not in error["message"]


def test_other_bodies_and_other_routes(server: Served) -> None:
    assert httpx.post(f"{server.url}{TRANSCRIPTIONS}", json={}, timeout=60).status_code == 400
    broken = {"content-type": "multipart/form-data"}
    assert httpx.post(f"{server.url}{TRANSCRIPTIONS}", content=b"x", headers=broken, timeout=60).status_code == 400
    chat = httpx.post(f"{server.url}/v1/chat/completions", json={"messages": []}, timeout=60)
    assert (chat.status_code, chat.json()["error"]["code"]) == (400, "wrong_kind_of_model")
    assert TRANSCRIPTIONS in chat.json()["error"]["message"]
    assert httpx.get(f"{server.url}/health", timeout=60).status_code == 200


def test_a_language_model_says_that_it_does_not_hear(tmp_path: Path) -> None:
    with served(make_tiny_gguf(tmp_path), "--split", "1") as server:
        files = {"file": ("tone.wav", SOUNDS[0])}
        answer = httpx.post(f"{server.url}{TRANSCRIPTIONS}", files=files, timeout=60)
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "wrong_kind_of_model")


@pytest.mark.parametrize("split", ["dp=2", "pp=2"])
def test_texts_stay_the_same_when_workers_die(folder: Path, split: str) -> None:
    with (
        served(folder, "--split", split) as server,
        client_of(server) as client,
        ThreadPoolExecutor(2 * NUM_REQUESTS) as threads,
    ):

        def ask(place: int) -> str:
            sound = ("tone.wav", SOUNDS[place % len(SOUNDS)])
            whole = client.audio.transcriptions.create(
                model="tiny",
                file=sound,
                language="en",
                response_format="verbose_json",
                timestamp_granularities=["word", "segment"],
            )
            return whole.model_dump_json()

        undisturbed = [ask(place) for place in range(len(SOUNDS))]
        assert all('"word":' in one for one in undisturbed)
        asked = [threads.submit(ask, place) for place in range(NUM_REQUESTS)]
        wait_until(lambda: server.metric("num_requests_running") > 0 or all(one.done() for one in asked))
        kill(server.workers()[0])
        asked += [threads.submit(ask, place) for place in range(NUM_REQUESTS)]
        for place, one in enumerate(asked):
            assert one.result() == undisturbed[place % NUM_REQUESTS % len(SOUNDS)]
        wait_until(lambda: server.metric("worker_losses_total") >= 1)
