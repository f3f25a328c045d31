"""What a model's answer consists of, as clients see it: text, reasoning and calls of tools, in pieces as they come."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Content:
    """A piece of the visible text."""

    text: str


@dataclass(frozen=True, slots=True)
class Reasoning:
    """A piece of what the model thinks before it answers."""

    text: str


@dataclass(frozen=True, slots=True)
class CallStarted:
    """A call of a tool, whose arguments follow."""

    index: int
    """of the call in its answer, from 0"""
    name: str


@dataclass(frozen=True, slots=True)
class CallArguments:
    """A piece of the arguments of a call, which together are a JSON object."""

    index: int
    text: str


AnswerPart = Content | Reasoning | CallStarted | CallArguments
