"""Answers in the form of OpenAI's responses, whole or as events. Implements `server.openai.form.Form`."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from shoal.generation.generation import Usage
from shoal.generation.output.choice import ChoiceDelta, FinishedChoice
from shoal.model.text.answer.reasoning import plain_text
from shoal.server.openai.answers import AnswerReading
from shoal.server.openai.errors import ApiError
from shoal.server.responses.items import OutputItems
from shoal.server.responses.schemas import ResponsesBody
from shoal.server.responses.tools import known_names, offered

_json = msgspec.json.Encoder().encode
_PLAIN = AnswerReading(plain_text, {}, 24)


def failure_of_stream(body: bytes, num_events: int) -> bytes:
    """The event with which a stream ends after an error, if there is no response that could have failed.

    Source: OpenAI API reference, streaming events of Responses, `error`.

    Args:
        body: the error as an answer of its own.
        num_events: number of events sent before.
    """
    error = msgspec.json.decode(body)["error"]
    told = {name: error.get(name) for name in ("code", "message", "param")}
    return b"event: error\ndata: " + _json({"type": "error", "sequence_number": num_events, **told}) + b"\n\n"


class ResponseForm:
    """The response to one call."""

    def __init__(
        self,
        body: ResponsesBody,
        model_name: str,
        reading: AnswerReading | None,
        on_done: Callable[[Mapping[str, Any]], None],
    ) -> None:
        """`on_done`: called with the whole response when it is complete."""
        reading = reading or _PLAIN
        self._response = _skeleton(body, model_name)
        self._stream = reading.stream()
        self._events: list[bytes] = []
        self._num_events = 0
        self._items = OutputItems(self._emit, reading.num_id_chars, known_names(body.tools or ()))
        self._on_done = on_done

    def opening(self, num_choices: int) -> bytes:
        """The response without output."""
        self._emit("created", {"response": self._response})
        self._emit("in_progress", {"response": self._response})
        return self._take()

    def event(self, delta: ChoiceDelta) -> bytes:
        """Events of output items."""
        self._items.add(self._stream.push(delta.text))
        if delta.finish_reason is not None:
            self._finish(delta.finish_reason)
        return self._take()

    def closing(self, usage: Usage) -> bytes:
        """The events that end a stream; the last one contains the whole response."""
        response = self._whole(usage)
        self._on_done(response)
        self._emit(str(response["status"]), {"response": response})
        return self._take()

    def failure(self, error: ApiError) -> bytes:
        """See `Form.failure`."""
        failed = {"code": error.code or "server_error", "message": str(error)}
        self._emit("failed", {"response": {**self._response, "status": "failed", "error": failed}})
        return self._take()

    def answer(self, choices: Sequence[FinishedChoice], usage: Usage) -> bytes:
        """The body of an answer in one piece."""
        (choice,) = choices
        self._items.add(self._stream.push(choice.text))
        self._finish(choice.finish_reason or "stop")
        response = self._whole(usage)
        self._on_done(response)
        return _json(response)

    def _finish(self, finish_reason: str) -> None:
        self._items.add(self._stream.close())
        is_cut = finish_reason == "length"
        self._items.close("incomplete" if is_cut else "completed")
        self._response["status"] = "incomplete" if is_cut else "completed"
        self._response["incomplete_details"] = {"reason": "max_output_tokens"} if is_cut else None

    def _whole(self, usage: Usage) -> dict[str, Any]:
        counts = {
            "input_tokens": usage.prompt_tokens,
            "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
            "output_tokens": usage.completion_tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        }
        return {**self._response, "output": self._items.output, "usage": counts}

    def _emit(self, kind: str, fields: dict[str, Any]) -> None:
        name = f"response.{kind}"
        data = _json({"type": name, "sequence_number": self._num_events, **fields})
        self._events.append(b"event: %s\ndata: %s\n\n" % (name.encode(), data))
        self._num_events += 1

    def _take(self) -> bytes:
        events, self._events = self._events, []
        return b"".join(events)


def _skeleton(body: ResponsesBody, model_name: str) -> dict[str, Any]:
    """All fields that are known before the answer."""
    given = body.model_dump(by_alias=True, exclude_none=True)
    return {
        "id": f"resp_{uuid.uuid4().hex}",
        "object": "response",
        "created_at": int(time.time()),
        "status": "in_progress",
        "error": None,
        "incomplete_details": None,
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "metadata": given.get("metadata", {}),
        "model": model_name,
        "output": [],
        "parallel_tool_calls": body.parallel_tool_calls is not False,
        "previous_response_id": body.previous_response_id,
        "reasoning": {"effort": None, "summary": None, **given.get("reasoning", {})},
        "store": body.store is not False,
        "temperature": 1.0 if body.temperature is None else body.temperature,
        "text": given.get("text") or {"format": {"type": "text"}},
        "tool_choice": given.get("tool_choice", "auto"),
        "tools": offered(body.tools or ()),
        "top_p": 1.0 if body.top_p is None else body.top_p,
        "truncation": "disabled",
        "usage": None,
        "user": given.get("user"),
    }
