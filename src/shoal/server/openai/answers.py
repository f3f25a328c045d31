"""How this server's model writes its answers: how they are read, and what they can be required to be."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from shoal.errors import ConfigError, InvalidRequest
from shoal.model.text.answer.answer import Reader
from shoal.model.text.answer.demanded import (
    behind_reasoning,
    calls_or_json,
    checked_calls,
    demanded_calls,
    harmony_json,
    marked_calls_or_json,
)
from shoal.model.text.answer.formats import HERMES, ToolFormat, find_format
from shoal.model.text.answer.harmony import harmony
from shoal.model.text.answer.reasoning import TaggedReasoning, plain_text
from shoal.model.text.answer.stream import AnswerStream
from shoal.model.text.grammar.constraint import ConstraintKind
from shoal.server.openai.body.chat_body import ChatBody
from shoal.server.openai.body.constraints import NamedConstraint
from shoal.server.openai.body.tool_schemas import NamedChoice

THINK_BEGIN, THINK_END = "<think>", "</think>"
REASONING_NAMES = ("auto", "think", "none")
"""`think`: reasoning stands between these tags; `auto`: so if the chat template contains them."""


class ChatTokenizer(Protocol):
    """The part of a tokenizer that is needed here."""

    @property
    def template_source(self) -> str:
        """The chat template's text."""
        ...

    def special_token_id(self, text: str, /) -> int | None:
        """The id of the special token with exactly this text; None: there is none."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerForms:
    """The forms in which one model writes tool calls and reasoning."""

    tools: ToolFormat
    has_reasoning: bool
    """Whether answers may begin with reasoning between tags."""
    special: Callable[[str], int | None]
    shows_special: bool
    """Whether special tokens mark the parts of an answer."""

    @classmethod
    def of(cls, tokenizer: ChatTokenizer, tool_parser: str = "auto", reasoning: str = "auto") -> AnswerForms:
        """The forms with these names, or those of the chat template for `auto`. Raises ConfigError."""
        check_parsers(tool_parser, reasoning)
        source = tokenizer.template_source
        tools = find_format(tool_parser, source)
        marks = (*tools.signs, THINK_BEGIN, THINK_END)
        return cls(
            tools=tools,
            has_reasoning=reasoning == "think" or (reasoning == "auto" and THINK_BEGIN in source),
            special=tokenizer.special_token_id,
            shows_special=any(tokenizer.special_token_id(mark) is not None for mark in marks),
        )

    def reading(self, body: ChatBody, prompt: str) -> AnswerReading | None:
        """How the answers to a request are read; None: all of it is visible text."""
        reader: Reader = plain_text
        schemas = _schemas(body)
        if self.tools.reader is harmony:
            reader = harmony
        elif schemas:
            reader = HERMES.reader if body.demands_calls and self.tools.written is None else self.tools.reader
        if self.has_reasoning:
            reader = TaggedReasoning(is_open=_is_thinking(prompt), then=reader)
        if reader is plain_text:
            return None
        calls_only = body.demands_calls and self.tools.reader is not harmony
        return AnswerReading(reader, schemas, self.tools.num_id_chars, calls_only)

    def constraint(self, body: ChatBody, prompt: str) -> NamedConstraint | None:
        """The required format of the answers: from the body's own field, or because they must call tools."""
        end = THINK_END if self.has_reasoning and _is_thinking(prompt) else ""
        schemas = _schemas(body)
        is_one = isinstance(body.tool_choice, NamedChoice) or body.parallel_tool_calls is False
        max_calls = 1 if is_one else None
        if body.demands_calls:
            written = self.tools.written or HERMES.written
            assert written is not None
            constraint = demanded_calls(written, schemas, self.special, max_calls=max_calls, reasoning=end)
            return NamedConstraint(constraint, "tools")
        if body.constraint is not None:
            return self._answer_constraint(body.constraint, schemas, end, max_calls)
        if self.tools.written and any(tool.function.strict for tool in body.offered_tools):
            checked = checked_calls(self.tools.written, schemas, self.special)
            return None if checked is None else NamedConstraint(checked, "tools")
        return None

    def _answer_constraint(
        self, named: NamedConstraint, schemas: Mapping[str, Mapping[str, Any]], end: str, max_calls: int | None
    ) -> NamedConstraint:
        """The body's required format for the answer after the reasoning. If it is JSON, tools may be called instead."""
        constraint, field = named
        if constraint.kind is not ConstraintKind.JSON_SCHEMA:
            if schemas:
                raise InvalidRequest(
                    f"`{field}` says what the whole answer must look like, so that none of the `tools` can be called: "
                    'leave one of them out, or give `tool_choice`: "none"',
                    param=field,
                )
            if end:
                raise InvalidRequest(
                    "this model thinks before it answers, and after that only JSON can be required of an answer",
                    param=field,
                )
            return named
        if self.tools.reader is harmony:
            return NamedConstraint(harmony_json(self.special, constraint.text, with_calls=bool(schemas)), field)
        if not schemas:
            return NamedConstraint(behind_reasoning(constraint.text, end), field) if end else named
        if self.tools.written is None:
            either = marked_calls_or_json(self.tools.begins, self.special, constraint.text, reasoning=end)
        else:
            either = calls_or_json(
                self.tools.written, schemas, self.special, constraint.text, max_calls=max_calls, reasoning=end
            )
        return NamedConstraint(either, field)


@dataclass(frozen=True, slots=True)
class AnswerReading:
    """Reads the answers to one request: which part is a tool call, and which is reasoning."""

    reader: Reader
    schemas: Mapping[str, Mapping[str, Any]]
    num_id_chars: int
    """Length of call ids."""
    calls_only: bool = False
    """Whether the answer consists only of calls."""

    def stream(self) -> AnswerStream:
        """The reader of one answer's stream."""
        return AnswerStream(self.reader, self.schemas, calls_only=self.calls_only)


def check_parsers(tool_parser: str, reasoning: str) -> None:
    """Raises ConfigError if a parser of this name does not exist."""
    find_format(tool_parser, "")
    if reasoning not in REASONING_NAMES:
        raise ConfigError(
            f"there is no reasoning parser {reasoning!r}: it can be {', '.join(REASONING_NAMES[:-1])} or "
            f"{REASONING_NAMES[-1]}"
        )


def _schemas(body: ChatBody) -> dict[str, Mapping[str, Any]]:
    return {tool.function.name: tool.function.parameters or {} for tool in body.offered_tools}


def _is_thinking(prompt: str) -> bool:
    """Whether the prompt ends with the beginning of reasoning."""
    return prompt.rstrip().endswith(THINK_BEGIN)


def offered(body: ChatBody) -> Sequence[dict[str, Any]] | None:
    """The tools as chat templates expect them; None: there are none."""
    return [tool.template_form() for tool in body.offered_tools] or None
