"""Answers in the form of Anthropic's messages: content blocks, whole or as events. Implements
`server.openai.form.Form`."""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from typing import Any, cast

import msgspec

from shoal.generation.generation import Usage
from shoal.generation.output.choice import ChoiceDelta, FinishedChoice
from shoal.model.text.answer.parts import AnswerPart, CallArguments, CallStarted, Content, Reasoning
from shoal.model.text.answer.reasoning import plain_text
from shoal.server.anthropic.errors import error_body, failure_event
from shoal.server.openai.answers import AnswerReading
from shoal.server.openai.errors import ApiError

_json = msgspec.json.Encoder().encode
_PLAIN = AnswerReading(plain_text, {}, 24)


class MessageForm:
    """The message that answers one call."""

    def __init__(
        self, model_name: str, *, num_prompt_tokens: int, reading: AnswerReading | None, is_shorter: bool = False
    ) -> None:
        """`is_shorter`: whether the context leaves less than the client's `max_tokens`."""
        self._reading = reading or _PLAIN
        self._stream = self._reading.stream()
        self._num_prompt_tokens = num_prompt_tokens
        self._length_reason = "model_context_window_exceeded" if is_shorter else "max_tokens"
        self._message: dict[str, Any] = {
            "id": f"msg_{uuid.uuid4().hex}",
            "type": "message",
            "role": "assistant",
            "model": model_name,
        }
        self._blocks = _Blocks()
        self._ending: dict[str, Any] = {}

    def opening(self, num_choices: int) -> bytes:
        """The message without content, and a sign of life."""
        usage = {"input_tokens": self._num_prompt_tokens, "output_tokens": 0}
        empty: dict[str, Any] = {"content": [], "stop_reason": None, "stop_sequence": None, "usage": usage}
        return _event("message_start", {"message": {**self._message, **empty}}) + _event("ping", {})

    def event(self, delta: ChoiceDelta) -> bytes:
        """Events of content blocks."""
        parts = self._stream.push(delta.text)
        if delta.finish_reason is None:
            return self._blocks.events(parts)
        parts += self._stream.close()
        self._ending = self._stop(delta.finish_reason, delta.stop_text)
        return self._blocks.events(parts) + self._blocks.close()

    def closing(self, usage: Usage) -> bytes:
        """The events with stop reason and token counts."""
        fields = {"delta": self._ending, "usage": _usage(usage)}
        return _event("message_delta", fields) + _event("message_stop", {})

    def failure(self, error: ApiError) -> bytes:
        """See `Form.failure`."""
        return failure_event(error_body(error))

    def answer(self, choices: Sequence[FinishedChoice], usage: Usage) -> bytes:
        """The whole answer as a `message` object."""
        (choice,) = choices
        parts = self._stream.push(choice.text) + self._stream.close()
        ending = self._stop(choice.finish_reason or "", choice.stop_text)
        return _json({**self._message, "content": _whole_blocks(parts), **ending, "usage": _usage(usage)})

    def _stop(self, finish_reason: str, stop_text: str | None) -> dict[str, Any]:
        if finish_reason == "length":
            return {"stop_reason": self._length_reason, "stop_sequence": None}
        if self._stream.num_calls:
            return {"stop_reason": "tool_use", "stop_sequence": None}
        if stop_text is not None:
            return {"stop_reason": "stop_sequence", "stop_sequence": stop_text}
        return {"stop_reason": "end_turn", "stop_sequence": None}


class _Blocks:
    """Content blocks that open and close as the parts of an answer arrive."""

    def __init__(self) -> None:
        self._index = -1
        self._kind: str | None = None
        """Kind of the open block."""

    def events(self, parts: Sequence[AnswerPart]) -> bytes:
        """Events for further parts."""
        return b"".join(map(self._of, parts))

    def close(self) -> bytes:
        """The event that closes the open block."""
        if self._kind is None:
            return b""
        self._kind = None
        return _event("content_block_stop", {"index": self._index})

    def _of(self, part: AnswerPart) -> bytes:
        match part:
            case Content(text):
                return self._need("text", {"text": ""}) + self._delta({"type": "text_delta", "text": text})
            case Reasoning(text):
                opened = self._need("thinking", {"thinking": "", "signature": ""})
                return opened + self._delta({"type": "thinking_delta", "thinking": text})
            case CallStarted(_, name):
                return self.close() + self._open("tool_use", {"id": _call_id(), "name": name, "input": {}})
            case CallArguments(_, text):
                return self._delta({"type": "input_json_delta", "partial_json": text})

    def _need(self, kind: str, fields: dict[str, Any]) -> bytes:
        return b"" if self._kind == kind else self.close() + self._open(kind, fields)

    def _open(self, kind: str, fields: dict[str, Any]) -> bytes:
        self._index += 1
        self._kind = kind
        return _event("content_block_start", {"index": self._index, "content_block": {"type": kind, **fields}})

    def _delta(self, fields: dict[str, Any]) -> bytes:
        return _event("content_block_delta", {"index": self._index, "delta": fields})


def _whole_blocks(parts: Sequence[AnswerPart]) -> list[dict[str, Any]]:
    blocks: list[dict[str, Any]] = []
    for part in parts:
        last = blocks[-1] if blocks else {}
        match part:
            case Content(text):
                if last.get("type") != "text":
                    blocks.append({"type": "text", "text": ""})
                blocks[-1]["text"] += text
            case Reasoning(text):
                if last.get("type") != "thinking":
                    blocks.append({"type": "thinking", "thinking": "", "signature": ""})
                blocks[-1]["thinking"] += text
            case CallStarted(_, name):
                blocks.append({"type": "tool_use", "id": _call_id(), "name": name, "input": ""})
            case CallArguments(_, text):
                last["input"] += text
    return [{**block, "input": _object(block["input"])} if "input" in block else block for block in blocks]


def _object(text: str) -> dict[str, Any]:
    """A call's arguments; empty if the model broke them off, or if they are not an object."""
    try:
        value = json.loads(text or "{}")
    except (ValueError, RecursionError):
        return {}
    return cast(dict[str, Any], value) if isinstance(value, dict) else {}


def _usage(usage: Usage) -> dict[str, int]:
    """Source: Anthropic API reference: `input_tokens` do not include tokens from a cache."""
    return {
        "input_tokens": usage.prompt_tokens - usage.cached_tokens,
        "cache_read_input_tokens": usage.cached_tokens,
        "cache_creation_input_tokens": 0,
        "output_tokens": usage.completion_tokens,
    }


def _call_id() -> str:
    return f"toolu_{uuid.uuid4().hex[:24]}"


def _event(kind: str, fields: dict[str, Any]) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (kind.encode(), _json({"type": kind, **fields}))
