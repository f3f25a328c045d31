"""Chat templates: Jinja programs that come with a model and turn messages into its prompt.

The environment is the one templates are written for. Source: transformers, utils/chat_template_utils.py and the page
"Writing a chat template" of its documentation.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from shoal.errors import InvalidRequest, ModelLoadError

RENDER_ERRORS = (jinja2.TemplateError, TypeError, ValueError, KeyError, AttributeError, RecursionError)
"""What a template raises over messages it was not made for: anything its expressions can."""


class ChatTemplate:
    """One compiled template and the special tokens that it may name. Raises ModelLoadError where it is no Jinja."""

    def __init__(self, source: str, special_tokens: Mapping[str, str]) -> None:
        self._special_tokens = dict(special_tokens)
        try:
            self._template = _environment().from_string(source)
        except jinja2.TemplateError as error:
            raise ModelLoadError(f"the model's chat template cannot be parsed: {error}") from error

    def render(self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] | None = None) -> str:
        """The prompt up to where the assistant's answer begins. Raises InvalidRequest over messages it refuses."""
        variables = {**self._special_tokens, "messages": messages, "tools": tools, "documents": None}
        try:
            return self._template.render(**variables, add_generation_prompt=True)
        except RENDER_ERRORS as error:
            raise InvalidRequest(f"the model's chat template refuses these messages: {error}", "messages") from error


class _Generation(Extension):
    """`{% generation %}` marks the assistant's words for training; here its contents stand as they are."""

    tags = {"generation"}  # noqa: RUF012 (jinja2 declares it as an instance-readable set)

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment


def _to_json(value: Any, **options: Any) -> str:
    """Plain JSON: jinja2's own filter escapes for HTML."""
    return json.dumps(value, **{"ensure_ascii": False, **options})


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)
