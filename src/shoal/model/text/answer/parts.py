"""The parts of a model's answer as clients see them: pieces of text, reasoning and tool calls, in order of arrival."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Content:
    """A piece of the visible text."""

    text: str


@dataclass(frozen=True, slots=True)
class Reasoning:
    """A piece of the model's reasoning before its answer."""

    text: str


@dataclass(frozen=True, slots=True)
class CallStarted:
    """The beginning of a tool call, whose arguments follow."""

    index: int
    """Number of the call in its answer, from 0."""
    name: str


@dataclass(frozen=True, slots=True)
class CallArguments:
    """A piece of the arguments of a call, which together are a JSON object."""

    index: int
    text: str


AnswerPart = Content | Reasoning | CallStarted | CallArguments
