"""Streams that show that they live, and errors that keep a status of their own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Any

import pytest

from shoal.errors import WorkerLost
from shoal.generation.generation import Usage
from shoal.generation.output.choice import ChoiceDelta
from shoal.server.openai.completions import CompletionForm
from shoal.server.openai.sse import EVENTS, EventStream, Rhythm

NEVER_S = 1e6


class SlowGeneration:
    """Says one word once enough was sent, or fails then."""

    usage = Usage(prompt_tokens=1, completion_tokens=1, cached_tokens=0)

    def __init__(self, sent: asyncio.Event, error: Exception | None = None) -> None:
        self._sent = sent
        self._error = error

    async def __aenter__(self) -> SlowGeneration:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        return None

    async def __aiter__(self) -> AsyncIterator[list[ChoiceDelta]]:
        await self._sent.wait()
        if self._error is not None:
            raise self._error
        yield [ChoiceDelta(index=0, text="word", finish_reason="stop")]


async def run(rhythm: Rhythm, wait_for: int, error: Exception | None = None) -> list[dict[str, Any]]:
    """What is sent where the first token comes behind so many messages."""
    messages: list[dict[str, Any]] = []
    enough = asyncio.Event()

    async def send(message: Any) -> None:
        messages.append(message)
        if len(messages) >= wait_for:
            enough.set()
        await asyncio.sleep(0)

    async def receive() -> Any:
        await asyncio.Event().wait()

    if not wait_for:
        enough.set()
    form = CompletionForm("m", include_usage=False, token_bytes=lambda token_id: b"")
    generation: Any = SlowGeneration(enough, error)
    await EventStream(generation, form, num_choices=1, rhythm=rhythm)({"type": "http"}, receive, send)
    return messages


def test_a_slow_stream_shows_that_it_lives() -> None:
    start, *bodies = asyncio.run(run(Rhythm(first_s=0.0, every_s=0.0), wait_for=5))
    assert (start["type"], start["status"]) == ("http.response.start", 200)
    sent = [body["body"] for body in bodies]
    assert sent[:3] == [EVENTS.sign_of_life] * 3
    text = b"".join(sent).replace(EVENTS.sign_of_life, b"")
    assert b"word" in text
    assert text.endswith(b"data: [DONE]\n\n")


def test_a_quick_one_has_no_comments() -> None:
    messages = asyncio.run(run(Rhythm(first_s=NEVER_S, every_s=NEVER_S), wait_for=0))
    assert not any(EVENTS.sign_of_life in message.get("body", b"") for message in messages)


def test_an_error_before_the_first_sign_has_a_status_of_its_own() -> None:
    with pytest.raises(WorkerLost):
        asyncio.run(run(Rhythm(first_s=NEVER_S), wait_for=0, error=WorkerLost("gone")))


def test_an_error_behind_it_is_an_event() -> None:
    messages = asyncio.run(run(Rhythm(first_s=0.0, every_s=0.0), wait_for=3, error=WorkerLost("gone")))
    assert b"worker_lost" in b"".join(message.get("body", b"") for message in messages)
