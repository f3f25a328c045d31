"""Tools in the bodies of responses: functions, alone and in namespaces, and those that OpenAI's own servers run.

A function of a namespace is offered to the model under one name, `full_name`; the client sees calls as it knows
them. A hosted tool is an offer that a model may leave aside. Nobody could run one here, so the model is not told of it
and the response does not list it: coding agents send `web_search` unasked and work without it. With `--strict-fields`
it is refused. Source: OpenAI API reference, "Create a model response", `tools`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, ValidationInfo, model_validator

from shoal.errors import InvalidRequest
from shoal.server.openai.body.api_schema import ApiSchema
from shoal.server.openai.body.fields import is_strict
from shoal.server.openai.body.tool_schemas import MAX_TOOLS

_SEPARATOR = "__"


class FunctionTool(ApiSchema):
    """A function that the client runs."""

    neutral: ClassVar[Mapping[str, tuple[object, ...]]] = {
        "allowed_callers": (["direct"],),
        "async": (False,),
        "defer_loading": (False,),
        "output_schema": (),
    }
    prefix = "tools."

    type: Literal["function"]
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None

    def chat_forms(self) -> list[dict[str, Any]]:
        """The tool in the form of chat completions."""
        own = self.model_dump(include={"name", "description", "parameters", "strict"}, exclude_none=True)
        return [{"type": "function", "function": own}]


class Namespace(ApiSchema):
    """A group of functions under a common name."""

    prefix = "tools."

    type: Literal["namespace"]
    name: str
    description: str | None = None
    tools: Annotated[list[FunctionTool], Field(max_length=MAX_TOOLS)]

    def chat_forms(self) -> list[dict[str, Any]]:
        """Its functions in the form of chat completions, each with the namespace's description before its own."""
        return [
            form
            for tool in self.tools
            for form in tool.model_copy(
                update={
                    "name": full_name(self.name, tool.name),
                    "description": "\n\n".join(filter(None, (self.description, tool.description))) or None,
                }
            ).chat_forms()
        ]


class HostedTool(ApiSchema):
    """A tool that only OpenAI's own servers can run; it may have any settings."""

    prefix = "tools."

    type: Literal[
        "web_search", "web_search_2025_08_26", "web_search_preview", "web_search_preview_2025_03_11",
        "file_search", "code_interpreter", "image_generation",
    ]  # fmt: skip

    @model_validator(mode="after")
    def _refuse_unimplemented(self, info: ValidationInfo) -> HostedTool:
        if is_strict(info):
            raise InvalidRequest(f"`tools` holds {self.type}, which this server cannot run: leave it out", "tools")
        return self

    def chat_forms(self) -> list[dict[str, Any]]:
        """An empty list: the model is not told of the tool."""
        return []


Tool = Annotated[FunctionTool | Namespace | HostedTool, Field(discriminator="type")]


class NamedTool(ApiSchema):
    """`tool_choice` that names a function."""

    prefix = "tool_choice."

    type: Literal["function"]
    name: str
    namespace: str | None = None


def full_name(namespace: str | None, name: str) -> str:
    """The name by which the model knows a function."""
    return f"{namespace}{_SEPARATOR}{name}" if namespace else name


def chat_call(call_id: str, namespace: str | None, name: str, arguments: str) -> dict[str, Any]:
    """A call as the messages of a chat completion have it."""
    return {
        "id": call_id,
        "type": "function",
        "function": {"name": full_name(namespace, name), "arguments": arguments},
    }


def known_names(tools: Iterable[Tool]) -> dict[str, dict[str, str]]:
    """By the full name of each function in a namespace, the fields that identify it to the client in a call."""
    return {
        full_name(space.name, tool.name): {"name": tool.name, "namespace": space.name}
        for space in tools
        if isinstance(space, Namespace)
        for tool in space.tools
    }


def offered(tools: Sequence[Tool]) -> list[dict[str, Any]]:
    """The tools that the model is told of, as they were sent."""
    return [tool.model_dump(by_alias=True, exclude_none=True) for tool in tools if not isinstance(tool, HostedTool)]
