"""Requests for guided outputs (schemas, regular expressions, choices, tool calls), with up to three choices each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from shoal.bench.chaos.answer import ChaosAnswer
from shoal.bench.chaos.completions import CompletionQuestions, StreamedAnswer, ask_for_stream, question_prompts
from shoal.bench.chaos.config import ChaosConfig
from shoal.bench.event_stream import Endpoint, parse_endpoint

_MOST_CHOICES = 3
_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 24},
        "number": {"type": "integer", "minimum": -1000, "maximum": 1000},
        "kinds": {"type": "array", "items": {"enum": ["red", "green", "blue"]}, "maxItems": 4},
        "inner": {"type": "object", "properties": {"is_open": {"type": "boolean"}}, "required": ["is_open"]},
    },
    "required": ["name", "number", "kinds", "inner"],
    "additionalProperties": False,
}
_WORD = {"type": "object", "properties": {"word": {"type": "string", "maxLength": 16}}, "required": ["word"]}
_AMOUNT = {"type": "object", "properties": {"most": {"type": "integer"}}, "required": ["most"]}
_TOOLS: list[dict[str, Any]] = [
    {"type": "function", "function": {"name": "find", "parameters": _WORD}},
    {"type": "function", "function": {"name": "count", "parameters": _AMOUNT}},
]
"""Tools with small schemas, which also fit models with a short context."""
_FORMS: tuple[dict[str, Any], ...] = (
    {"response_format": {"type": "json_schema", "json_schema": {"name": "thing", "schema": _SCHEMA}}},
    {"tools": _TOOLS, "tool_choice": "required"},
    {"structured_outputs": {"regex": r"[a-z]{3,9}( [a-z]{2,9}){4,12}\."}},
    {"tools": _TOOLS, "tool_choice": {"type": "function", "function": {"name": "find"}}},
    {"structured_outputs": {"choice": ["the tide comes in", "the tide goes out", "there is no tide"]}},
    {"response_format": {"type": "json_object"}},
)
"""Request fields that guide the output. Those with tools are for chats, the others for both endpoints."""


class _Function(msgspec.Struct):
    name: str = ""
    arguments: str = ""


class _Call(msgspec.Struct):
    index: int
    function: _Function


class _Delta(msgspec.Struct):
    content: str | None = None
    tool_calls: list[_Call] = []


class _Choice(msgspec.Struct):
    index: int
    text: str = ""
    delta: _Delta = msgspec.field(default_factory=_Delta)
    finish_reason: str | None = None


class _Usage(msgspec.Struct):
    completion_tokens: int


class _Event(msgspec.Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: Any = None


_decode = msgspec.json.Decoder(_Event).decode


@dataclass(slots=True, kw_only=True)
class GuidedAnswer(StreamedAnswer):
    """An answer whose choices arrive in any order. `text` and `finish_reason` join those of all choices."""

    texts: dict[int, str] = field(default_factory=dict[int, str])
    reasons: dict[int, str] = field(default_factory=dict[int, str])
    """Finish reasons of the choices that have ended."""

    def on_event(self, data: bytes, received_s: float) -> None:
        """Take the data of one event."""
        if data == b"[DONE]":
            return
        event = _decode(data)
        for choice in event.choices:
            self.arrivals_s.append(received_s)
            self._take(choice)
        if event.usage is not None:
            self.num_tokens = event.usage.completion_tokens
        if event.error is not None:
            self.error = str(event.error)

    def _take(self, choice: _Choice) -> None:
        calls = "".join(
            (f"\n{call.index} {call.function.name} " if call.function.name else "") + call.function.arguments
            for call in choice.delta.tool_calls
        )
        fresh = choice.text + (choice.delta.content or "") + calls
        self.texts[choice.index] = self.texts.get(choice.index, "") + fresh
        if choice.finish_reason is not None:
            self.reasons[choice.index] = choice.finish_reason
            if len(self.reasons) == len(self.texts):
                self.text = "\n".join(f"{index}: {self.texts[index]}" for index in sorted(self.texts))
                self.finish_reason = ", ".join(self.reasons[index] for index in sorted(self.reasons))


class GuidedQuestions:
    """Implements `bench.chaos.questions.Questions`."""

    metrics_prefix = CompletionQuestions.metrics_prefix

    def __init__(self, config: ChaosConfig, url: str, model: str) -> None:
        self._endpoints = {path: parse_endpoint(url, path) for path in ("/v1/chat/completions", "/v1/completions")}
        self._questions = [
            self._question(config, model, index, prompt) for index, prompt in enumerate(question_prompts(config, model))
        ]

    def __len__(self) -> int:
        return len(self._questions)

    async def ask(self, index: int, clock: Callable[[], float]) -> ChaosAnswer:
        """See `Questions.ask`."""
        endpoint, body = self._questions[index]
        return await ask_for_stream(endpoint, body, GuidedAnswer(started_s=clock()), clock)

    def _question(self, config: ChaosConfig, model: str, index: int, prompt: str) -> tuple[Endpoint, bytes]:
        form = _FORMS[index % len(_FORMS)]
        is_chat = "tools" in form or bool(index // len(_FORMS) % 2)
        asked = {"messages": [{"role": "user", "content": prompt}]} if is_chat else {"prompt": prompt}
        fields: dict[str, Any] = {
            "model": model,
            **asked,
            **form,
            "n": 1 + index % _MOST_CHOICES,
            "max_tokens": config.output_tokens,
            "temperature": 1.0,
            "seed": config.seed + index,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        return self._endpoints["/v1/chat/completions" if is_chat else "/v1/completions"], msgspec.json.encode(fields)
