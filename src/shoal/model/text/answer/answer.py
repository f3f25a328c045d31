"""An answer while it is being read: its parts, as they become certain."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from shoal.model.text.answer.feed import Feed, Reading
from shoal.model.text.answer.parts import AnswerPart, CallArguments, CallStarted, Content, Reasoning

Schemas = Mapping[str, Mapping[str, Any]]
"""The JSON schema of each tool's parameters, by the tool's name."""


class Answer:
    """Collects the parts that a reader has recognized."""

    def __init__(self) -> None:
        self._parts: list[AnswerPart] = []
        self.num_calls = 0
        """Number of calls that have begun."""

    def content(self, text: str) -> None:
        """Visible text. White space alone between or after calls does not count as text."""
        if text and not (self.num_calls and text.isspace()):
            self._parts.append(Content(text))

    def reasoning(self, text: str) -> None:
        """Text of the model's reasoning."""
        if text:
            self._parts.append(Reasoning(text))

    def start(self, name: str) -> None:
        """A call begins."""
        self._parts.append(CallStarted(self.num_calls, name))
        self.num_calls += 1

    def arguments(self, text: str) -> None:
        """More text of the arguments of the latest call."""
        if text:
            self._parts.append(CallArguments(self.num_calls - 1, text))

    def take(self) -> list[AnswerPart]:
        """Take the parts that have not been taken yet; adjacent pieces of the same part are joined."""
        parts, self._parts = self._parts, []
        return _joined(parts)


Reader = Callable[[Feed, Answer, Schemas], Reading[None]]
"""Reads one answer to its end, in the format of one family."""


def _joined(parts: list[AnswerPart]) -> list[AnswerPart]:
    joined: list[AnswerPart] = []
    for part in parts:
        match joined[-1] if joined else None, part:
            case Content(text=before), Content(text=text):
                joined[-1] = Content(before + text)
            case Reasoning(text=before), Reasoning(text=text):
                joined[-1] = Reasoning(before + text)
            case CallArguments(index=index, text=before), CallArguments(text=text):
                joined[-1] = CallArguments(index, before + text)
            case _:
                joined.append(part)
    return joined
