"""The checked tools and tool calls in the bodies of chat completions."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from shoal.errors import InvalidRequest
from shoal.model.text.grammar.constraint import check_schema
from shoal.server.openai.body.api_schema import ApiSchema

MAX_TOOLS = 128
"""Source: OpenAI API reference, `tools`."""
_Name = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_.-]{1,64}$")]


class Function(ApiSchema):
    """The description of a tool for the model."""

    prefix = "tools.function."

    name: _Name
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None

    @model_validator(mode="after")
    def _check_parameters(self) -> Function:
        try:
            check_schema(self.parameters or {})
        except InvalidRequest as error:
            raise InvalidRequest(f"the parameters of {self.name}: {error}", param="tools") from None
        return self


class Tool(ApiSchema):
    """One entry of `tools`."""

    prefix = "tools."
    harmless = frozenset({"cache_control"})

    type: Literal["function"]
    function: Function

    def template_form(self) -> dict[str, Any]:
        """The tool as chat templates expect it."""
        fields = self.function.model_dump(include={"name", "description", "parameters"}, exclude_none=True)
        return {"type": "function", "function": {"description": "", "parameters": {}, **fields}}


class NamedFunction(ApiSchema):
    """The function of a named choice."""

    prefix = "tool_choice.function."

    name: str


class NamedChoice(ApiSchema):
    """`tool_choice` that names a tool."""

    prefix = "tool_choice."

    type: Literal["function"]
    function: NamedFunction


ToolChoice = Literal["none", "auto", "required"] | NamedChoice


class CalledFunction(ApiSchema):
    """The function that an earlier answer called."""

    prefix = "messages.tool_calls.function."

    name: str
    arguments: str | dict[str, Any] = ""


class ToolCall(ApiSchema):
    """One call of an earlier answer."""

    prefix = "messages.tool_calls."
    harmless = frozenset({"cache_control", "extra_content", "index"})
    """`index` comes from clients that assemble a streamed answer."""

    id: str = ""
    type: Literal["function"] = "function"
    function: CalledFunction

    def template_form(self) -> dict[str, Any]:
        """The call as chat templates expect it: arguments become an object if they are JSON."""
        arguments = self.function.arguments
        if isinstance(arguments, str):
            with suppress(ValueError, RecursionError):  # the model's earlier output need not be JSON
                arguments = json.loads(arguments or "{}")
        return {"id": self.id, "type": "function", "function": {"name": self.function.name, "arguments": arguments}}


def check_choice(choice: ToolChoice | None, names: list[str]) -> None:
    """Raises InvalidRequest if there are no tools to choose from, or the chosen one is missing."""
    if len(set(names)) < len(names):
        raise InvalidRequest("two of the tools have the same name", param="tools")
    if choice in (None, "none", "auto"):
        return
    if not names:
        raise InvalidRequest("`tool_choice` needs `tools`", param="tool_choice")
    if isinstance(choice, NamedChoice) and choice.function.name not in names:
        raise InvalidRequest(f"there is no tool {choice.function.name[:64]!r} in `tools`", param="tool_choice")
