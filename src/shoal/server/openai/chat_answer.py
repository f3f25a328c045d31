"""Answers with more than visible text, in the fields of OpenAI's messages."""

from __future__ import annotations

import secrets

from shoal.model.text.answer.parts import AnswerPart, CallArguments, CallStarted, Content, Reasoning
from shoal.server.openai.answers import AnswerReading

Fields = dict[str, object]
NOTHING: Fields = {}
"""The delta of a chunk that only ends an answer."""


class ChatStream:
    """One answer as deltas."""

    def __init__(self, reading: AnswerReading) -> None:
        self._stream = reading.stream()
        self._num_id_chars = reading.num_id_chars

    def push(self, text: str, finish_reason: str | None) -> tuple[list[Fields], str | None]:
        """Deltas for further text, and the finish reason for clients."""
        parts = self._stream.push(text)
        if finish_reason is None:
            return [self._delta(part) for part in parts], None
        parts += self._stream.close()
        return [self._delta(part) for part in parts], _reason(finish_reason, self._stream.num_calls)

    def _delta(self, part: AnswerPart) -> Fields:
        match part:
            case Content(text):
                return {"content": text}
            case Reasoning(text):
                return {"reasoning_content": text}
            case CallStarted(index, name):
                function = {"name": name, "arguments": ""}
                call = {"index": index, "id": _call_id(self._num_id_chars), "type": "function", "function": function}
                return {"tool_calls": [call]}
            case CallArguments(index, text):
                return {"tool_calls": [{"index": index, "function": {"arguments": text}}]}


def read_message(reading: AnswerReading, text: str, finish_reason: str | None) -> tuple[Fields, str | None]:
    """The fields of a whole message, and the finish reason."""
    stream = reading.stream()
    parts = stream.push(text) + stream.close()
    content = "".join(part.text for part in parts if isinstance(part, Content))
    reasoning = "".join(part.text for part in parts if isinstance(part, Reasoning))
    calls = [
        {
            "id": _call_id(reading.num_id_chars),
            "type": "function",
            "function": {"name": start.name, "arguments": _arguments(parts, start.index)},
        }
        for start in parts
        if isinstance(start, CallStarted)
    ]
    fields: Fields = {"content": content or (None if calls else "")}
    if reasoning:
        fields["reasoning_content"] = reasoning
    if calls:
        fields["tool_calls"] = calls
    return fields, _reason(finish_reason, len(calls))


def _arguments(parts: list[AnswerPart], index: int) -> str:
    return "".join(part.text for part in parts if isinstance(part, CallArguments) and part.index == index)


def _reason(finish_reason: str | None, num_calls: int) -> str | None:
    return "tool_calls" if num_calls and finish_reason == "stop" else finish_reason


def _call_id(num_chars: int) -> str:
    """A call id. Short ones have only letters and digits, which templates that check their length require."""
    name = secrets.token_hex(num_chars)[:num_chars]
    return name if num_chars < 16 else f"call_{name}"
