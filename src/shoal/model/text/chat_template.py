"""Chat templates: Jinja programs that come with a model and turn messages into its prompt.

The environment is the one templates are written for, within bounds (template/). Source: transformers,
utils/chat_template_utils.py and the page "Writing a chat template" of its documentation.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cached_property
from typing import Any, NoReturn, cast

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser

from shoal.errors import InvalidRequest, ModelLoadError
from shoal.model.text.template.budget import Budget, TemplateLimitExceeded, spend_from
from shoal.model.text.template.sandbox import MeteredEnvironment

MAX_SOURCE_CHARS = 256 << 10
"""The longest templates in use have some 30 thousand characters."""
STEPS = 200_000
"""Of a template, whatever it is given: half a second or so. A loop over some hundred messages within another fits."""
STEPS_PER_MESSAGE = 500
"""Several times what templates in use take for each."""
CHARS = 32 << 20
CHARS_PER_CHAR = 16
"""Characters that a template may make of each that it is given: every `+` behind a text copies it. One that gathers
the whole prompt in a variable copies it for every message, a few times."""
MAX_CHARS = 512 << 20
"""of all that a template makes, whatever it is given: half a second of copying"""
MAX_VALUES = 1_000_000
"""Several times what the body of a request may hold."""
_SAMPLE = ({"role": "user", "content": "Hello"},)
_LONGEST_REASON = 300
"""characters of what a template says for itself"""


class ChatTemplate:
    """One compiled template and the special tokens that it may name."""

    def __init__(self, source: str, special_tokens: Mapping[str, str]) -> None:
        """Compile it and try it.

        Raises:
            ModelLoadError: it is no Jinja, or one short message costs it more than its budget.
        """
        self.source = source
        self._special_tokens = dict(special_tokens)
        if len(source) > MAX_SOURCE_CHARS:
            raise ModelLoadError(f"the model's chat template has more than {MAX_SOURCE_CHARS} characters")
        try:
            self._template = _environment().from_string(source)
        except Exception as error:  # whatever Jinja and Python raise over a program that nobody here wrote
            raise ModelLoadError(f"the model's chat template cannot be parsed: {_reason(error)}") from error
        try:
            self._run(_SAMPLE, None)
        except TemplateLimitExceeded as error:
            raise ModelLoadError(f"the model's chat template does not finish for one message: {error}") from error
        except Exception:
            pass

    @cached_property
    def knows_tools(self) -> bool:
        """Whether it says anything of tools that it is given."""
        return bool(re.search(r"\btools\b", self.source))

    @cached_property
    def knows_calls(self) -> bool:
        """Whether it writes the calls of earlier answers."""
        return "tool_calls" in self.source

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        """The prompt up to where the assistant's answer begins. Thread-safe; ends soon, whatever the template.

        Args:
            messages: of the conversation.
            tools: that may be called.
            variables: of this template, such as `enable_thinking`. `add_generation_prompt` is true unless they say
                otherwise.

        Raises:
            InvalidRequest: the template refuses these messages, or is not done with them within its budget.
        """
        try:
            return self._run(messages, tools, variables)
        except Exception as error:  # whatever its expressions raise over messages it was not made for
            raise InvalidRequest(
                f"the model's chat template refuses these messages: {_reason(error)}", "messages"
            ) from error

    def _run(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None,
        extra: Mapping[str, Any] | None = None,
    ) -> str:
        num_chars = num_chars_within((messages, tools, extra))
        spend_from(
            Budget(
                steps=STEPS + STEPS_PER_MESSAGE * (len(messages) + len(tools or ())),
                chars=min(MAX_CHARS, CHARS + (CHARS_PER_CHAR + 2 * len(messages)) * num_chars),
            )
        )
        given = {"messages": messages, "tools": tools, "documents": None}
        return self._template.render({"add_generation_prompt": True, **(extra or {}), **self._special_tokens, **given})


def num_chars_within(value: object) -> int:
    """Characters of all texts in what a template is given, of at most MAX_VALUES values: lists may hold each other."""
    num_chars, num_values = 0, 0
    waiting = [value]
    while waiting and num_values < MAX_VALUES:
        num_values += 1
        match waiting.pop():
            case str() as text:
                num_chars += len(text)
            case Mapping() as mapping:
                pairs = cast(Mapping[object, object], mapping).items()
                waiting += [one for pair in pairs for one in pair]
            case list() | tuple() as items:
                waiting += cast(Sequence[object], items)
            case _:
                pass
    return num_chars


class _Generation(Extension):
    """`{% generation %}` marks the assistant's words for training; here its contents stand as they are."""

    tags = {"generation"}  # noqa: RUF012 (jinja2 declares it as an instance-readable set)

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _environment() -> MeteredEnvironment:
    environment = MeteredEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols])
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment


def _raise_exception(message: Any) -> NoReturn:
    raise jinja2.TemplateError(str(message))


def _strftime_now(form: str) -> str:
    if len(form) > _LONGEST_REASON or any(form[i : i + 4].isdigit() for i in range(len(form) - 3)):
        raise TemplateLimitExceeded("it writes the date in a wide field")
    return datetime.now().strftime(form)


def _reason(error: Exception) -> str:
    """One line."""
    words = " ".join(str(error)[: 2 * _LONGEST_REASON].split())[:_LONGEST_REASON]
    return words if isinstance(error, jinja2.TemplateError) and words else f"{type(error).__name__}: {words}"
