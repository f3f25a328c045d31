"""Answers in Ollama's form: a JSON object, or one on each line of a stream. Implements `server.openai.form.Form`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, cast

import msgspec

from shoal.generation.generation import Usage
from shoal.generation.output.choice import ChoiceDelta, FinishedChoice, PositionLogprobs
from shoal.model.text.answer.parts import AnswerPart, CallArguments, CallStarted, Content, Reasoning
from shoal.model.text.answer.reasoning import plain_text
from shoal.server.ollama.errors import error_body, failure_line
from shoal.server.openai.answers import AnswerReading
from shoal.server.openai.errors import ApiError
from shoal.server.openai.form import finite, token_name, top_pairs
from shoal.server.openai.sse import Framing

_json = msgspec.json.Encoder().encode
_PLAIN = AnswerReading(plain_text, {}, 24)
_NS = 1_000_000_000

Place = Callable[[str, str, Sequence[Mapping[str, Any]]], dict[str, Any]]
"""Arranges an answer's text, reasoning and tool calls as fields of the object."""


def in_message(text: str, thinking: str, calls: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The fields of an answer's text in /api/chat."""
    message: dict[str, Any] = {"role": "assistant", "content": text}
    if thinking:
        message["thinking"] = thinking
    if calls:
        message["tool_calls"] = calls
    return {"message": message}


def in_response(text: str, thinking: str, calls: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The fields of an answer's text in /api/generate, which calls no tools."""
    return {"response": text, **({"thinking": thinking} if thinking else {})}


def line_framing(model_name: str, place: Place) -> Framing:
    """A stream is made of lines; a sign of life is a line that adds nothing."""
    return Framing(b"application/x-ndjson", _written(model_name, place("", "", ())))


class OllamaForm:
    """The answer to one call."""

    def __init__(
        self, model_name: str, place: Place, *, reading: AnswerReading | None, token_bytes: Callable[[int], bytes]
    ) -> None:
        self._model_name = model_name
        self._place = place
        self._token_bytes = token_bytes
        self._stream = (reading or _PLAIN).stream()
        self._calls = _Calls()
        self._done_reason = ""

    @property
    def framing(self) -> Framing:
        """See `line_framing`."""
        return line_framing(self._model_name, self._place)

    def opening(self, num_choices: int) -> bytes:
        """Empty: the first line is the first piece of text."""
        return b""

    def event(self, delta: ChoiceDelta) -> bytes:
        """The line of a piece, unless all of it is held back."""
        fields = self._read(delta.text, delta.finish_reason)
        logprobs = self._logprobs(delta.logprobs)
        return self._line({**self._place(*fields), **logprobs}) if any(fields) or logprobs else b""

    def closing(self, usage: Usage) -> bytes:
        """The last line: why the answer ended, and its counts."""
        return self._line({**self._place("", "", ()), **self._ending(usage)})

    def failure(self, error: ApiError) -> bytes:
        """See `Form.failure`."""
        return failure_line(error_body(error))

    def answer(self, choices: Sequence[FinishedChoice], usage: Usage) -> bytes:
        """The whole answer as one object."""
        (choice,) = choices
        fields = self._read(choice.text, choice.finish_reason)
        return self._line({**self._place(*fields), **self._ending(usage), **self._logprobs(choice.logprobs)})

    def empty(self, done_reason: str) -> bytes:
        """The answer to a request without a prompt."""
        return self._line({**self._place("", "", ()), "done": True, "done_reason": done_reason})

    def _read(self, text: str, finish_reason: str | None) -> tuple[str, str, list[dict[str, Any]]]:
        parts = self._stream.push(text)
        if finish_reason is not None:
            parts += self._stream.close()
            self._done_reason = finish_reason
        return (
            "".join(part.text for part in parts if isinstance(part, Content)),
            "".join(part.text for part in parts if isinstance(part, Reasoning)),
            self._calls.finished(parts, is_end=finish_reason is not None),
        )

    def _line(self, fields: Mapping[str, Any]) -> bytes:
        return _written(self._model_name, fields)

    def _ending(self, usage: Usage) -> dict[str, Any]:
        """Source: Ollama's API reference: durations in nanoseconds."""
        return {
            "done": True,
            "done_reason": self._done_reason,
            "total_duration": int(usage.last_token_s * _NS),
            "load_duration": 0,
            "prompt_eval_count": usage.prompt_tokens,
            "prompt_eval_duration": int(usage.first_token_s * _NS),
            "eval_count": usage.completion_tokens,
            "eval_duration": int((usage.last_token_s - usage.first_token_s) * _NS),
        }

    def _logprobs(self, positions: Sequence[PositionLogprobs]) -> dict[str, Any]:
        if not positions:
            return {}
        return {"logprobs": [self._position(position) for position in positions]}

    def _position(self, position: PositionLogprobs) -> dict[str, Any]:
        top = [self._token(token_id, logprob) for token_id, logprob in top_pairs(position.logprobs)]
        return {**self._token(position.token_id, finite(position.logprobs.logprob)), "top_logprobs": top}

    def _token(self, token_id: int, logprob: float) -> dict[str, Any]:
        token = self._token_bytes(token_id)
        return {"token": token_name(token), "logprob": logprob, "bytes": list(token)}


def _written(model_name: str, fields: Mapping[str, Any]) -> bytes:
    """A line of an answer."""
    now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    return _json({"model": model_name, "created_at": now, "done": False, **fields}) + b"\n"


class _Calls:
    """Tool calls, each sent when it is complete."""

    def __init__(self) -> None:
        self._name: str | None = None
        """Name of the call that is being written."""
        self._arguments: list[str] = []

    def finished(self, parts: Sequence[AnswerPart], *, is_end: bool) -> list[dict[str, Any]]:
        """The calls that are completed by these parts."""
        calls: list[dict[str, Any]] = []
        for part in parts:
            if isinstance(part, CallStarted):
                calls += self._close()
                self._name = part.name
            elif isinstance(part, CallArguments):
                self._arguments.append(part.text)
        return calls + self._close() if is_end else calls

    def _close(self) -> list[dict[str, Any]]:
        if self._name is None:
            return []
        call = {"function": {"name": self._name, "arguments": _object("".join(self._arguments))}}
        self._name = None
        self._arguments.clear()
        return [call]


def _object(text: str) -> dict[str, Any]:
    """A call's arguments; empty if the model broke them off, or if they are not an object."""
    with suppress(ValueError, RecursionError):
        value = json.loads(text or "{}")
        if isinstance(value, dict):
            return cast(dict[str, Any], value)
    return {}
