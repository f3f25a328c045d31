"""Chat templates: Jinja programs that come with a model and turn messages into a prompt.

Templates run in the environment for which they are written, within bounds (template/). Source: transformers,
utils/chat_template_utils.py and the page "Writing a chat template" of its documentation.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from functools import cached_property
from typing import Any, NoReturn, cast

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser

from shoal.errors import InvalidRequest, ModelLoadError
from shoal.model.text.template.budget import Budget, TemplateLimitExceeded, spend_from
from shoal.model.text.template.folding import stricter_forms
from shoal.model.text.template.sandbox import MeteredEnvironment

MAX_SOURCE_CHARS = 256 << 10
"""The longest templates in use have about 30 thousand characters."""
STEPS = 200_000
"""Steps that a template may always take: about half a second. A loop over some hundred messages within another one
fits."""
STEPS_PER_MESSAGE = 500
"""Further steps for each message, several times what templates in use take."""
CHARS = 32 << 20
CHARS_PER_CHAR = 16
"""Characters that a template may produce for each one that it is given, since every `+` copies the text before it. A
template that collects the prompt in a variable copies it for every message, several times."""
MAX_CHARS = 512 << 20
"""Most characters that a template may ever produce: half a second of copying."""
MAX_VALUES = 1_000_000
"""Most values that are counted: several times what the body of a request may hold."""
_SAMPLE = ({"role": "user", "content": "Hello"},)
_LONGEST_REASON = 300
"""Characters of a template's error that are shown."""


class ChatTemplate:
    """A compiled template and the special tokens that it may use."""

    def __init__(self, source: str, special_tokens: Mapping[str, str]) -> None:
        """Compile the template and try it.

        Raises:
            ModelLoadError: the source is not Jinja, or one short message exceeds the budget.
        """
        self.source = source
        self._special_tokens = dict(special_tokens)
        if len(source) > MAX_SOURCE_CHARS:
            raise ModelLoadError(f"the model's chat template has more than {MAX_SOURCE_CHARS} characters")
        try:
            self._template = _environment().from_string(source)
        except Exception as error:  # whatever Jinja and Python raise for a program from outside
            raise ModelLoadError(f"the model's chat template cannot be parsed: {_reason(error)}") from error
        try:
            self._run(_SAMPLE, None)
        except TemplateLimitExceeded as error:
            raise ModelLoadError(f"the model's chat template does not finish for one message: {error}") from error
        except Exception:
            pass

    @cached_property
    def knows_tools(self) -> bool:
        """Whether the template uses the tools that it is given."""
        return bool(re.search(r"\btools\b", self.source))

    @cached_property
    def knows_calls(self) -> bool:
        """Whether the template writes the calls of earlier answers."""
        return "tool_calls" in self.source

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        """The prompt up to the beginning of the assistant's answer. Thread-safe; takes a bounded time, whatever the
        template. A conversation that the template refuses is tried again as `stricter_forms` has it.

        Args:
            messages: of the conversation.
            tools: that may be called.
            variables: of this template, such as `enable_thinking`. `add_generation_prompt` is true unless it is among
                them.

        Raises:
            InvalidRequest: the template refuses these messages, or exceeds its budget.
        """
        try:
            return self._run(messages, tools, variables)
        except Exception as error:  # whatever its expressions raise for messages that it was not made for
            if not isinstance(error, TemplateLimitExceeded):
                for form in stricter_forms(messages):
                    with suppress(Exception):
                        return self._run(form, tools, variables)
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
    """Characters of all texts in what a template is given. Looks at MAX_VALUES values at most, as lists may contain
    each other."""
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
    """`{% generation %}` marks the assistant's words for training; its content is kept as it is."""

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
    """An error in one line."""
    words = " ".join(str(error)[: 2 * _LONGEST_REASON].split())[:_LONGEST_REASON]
    return words if isinstance(error, jinja2.TemplateError) and words else f"{type(error).__name__}: {words}"
