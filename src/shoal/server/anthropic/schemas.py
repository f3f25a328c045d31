"""The checked body of /v1/messages, and its conversion to a chat completion.

Source: Anthropic API reference, "Create a Message". Fields that would change the answer but are not implemented are
refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from shoal.errors import InvalidRequest
from shoal.server.anthropic.content_blocks import InputMessage, TextBlock, chat_turns, joined_text
from shoal.server.openai.body.api_schema import ApiSchema
from shoal.server.openai.body.chat_body import MAX_MESSAGES, ChatBody
from shoal.server.openai.body.tool_schemas import MAX_TOOLS

_IGNORED = frozenset(
    {
        "betas",
        "billing_policy",
        "cache_control",
        "container",
        "context_management",
        "fallback_credit_token",
        "inference_geo",
        "metadata",
        "service_tier",
        "user_profile_id",
        "workspace_id",
    }
)
"""Fields about accounts, caches and places, which do not change the answer's text."""
_NEUTRAL: Mapping[str, tuple[object, ...]] = {
    "compaction": (),
    "diagnostics": (),
    "fallbacks": ([],),
    "mcp_servers": ([],),
    "speed": ("standard",),
    "thread": (),
}
"""Fields that are not implemented: values other than these (and null) are refused."""


class InputTool(ApiSchema):
    """A tool that the client runs."""

    harmless = frozenset({"cache_control", "eager_input_streaming"})
    neutral: ClassVar[Mapping[str, tuple[object, ...]]] = {
        "allowed_callers": (["direct"],),
        "defer_loading": (False,),
        "input_examples": ([],),
    }
    prefix = "tools."

    type: Literal["custom"] | None = None
    name: str
    description: str | None = None
    input_schema: dict[str, Any]
    strict: bool | None = None


class ToolChoice(ApiSchema):
    """Whether tools must, may or must not be called."""

    prefix = "tool_choice."

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class Thinking(ApiSchema):
    """Whether the model reasons first. The length of its reasoning is not controlled."""

    harmless = frozenset({"budget_tokens", "display"})
    prefix = "thinking."

    type: Literal["enabled", "adaptive", "disabled"]


class OutputFormat(ApiSchema):
    """The format that the answer must have."""

    prefix = "output_config.format."

    type: Literal["json_schema"]
    schema_: Annotated[dict[str, Any], Field(alias="schema")]


class OutputConfig(ApiSchema):
    """`output_config` of a request: the format that the answer must have."""

    neutral: ClassVar[Mapping[str, tuple[object, ...]]] = {"task_budget": ()}
    prefix = "output_config."

    format: OutputFormat | None = None
    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None


class CountBody(ApiSchema):
    """POST /v1/messages/count_tokens."""

    neutral = _NEUTRAL
    harmless = _IGNORED

    model: str
    messages: Annotated[list[InputMessage], Field(min_length=1, max_length=MAX_MESSAGES)]
    system: str | list[TextBlock] | None = None
    tools: Annotated[list[InputTool], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: ToolChoice | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    output_format: OutputFormat | None = None

    def chat_fields(self) -> dict[str, Any]:
        """The request as fields of a chat completion. Raises InvalidRequest."""
        if self.messages[-1].role == "assistant":
            raise InvalidRequest("the last message is the assistant's, but answers cannot be prefilled", "messages")
        system = [{"role": "system", "content": joined_text(self.system)}] if self.system else []
        fields: dict[str, Any] = {
            "messages": [*system, *(turn for message in self.messages for turn in chat_turns(message))],
            "tools": [_tool(tool) for tool in self.tools or ()] or None,
            "response_format": self._response_format(),
        }
        if self.thinking is not None:
            fields["chat_template_kwargs"] = {"enable_thinking": self.thinking.type != "disabled"}
        if self.output_config is not None and self.output_config.effort is not None:
            effort = self.output_config.effort
            fields["reasoning_effort"] = "xhigh" if effort == "max" else effort
        if self.tool_choice is not None:
            fields |= _choice_fields(self.tool_choice)
        return fields

    def _response_format(self) -> dict[str, Any] | None:
        """Source: Anthropic API reference, "Structured outputs"."""
        form = self.output_format or (self.output_config.format if self.output_config else None)
        return form and {"type": "json_schema", "json_schema": {"name": "output", "schema": form.schema_}}


class MessagesBody(CountBody):
    """POST /v1/messages."""

    max_tokens: Annotated[int, Field(ge=1)]
    stop_sequences: list[str] | None = None
    stream: bool | None = None
    temperature: Annotated[float, Field(ge=0, le=1)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0)] | None = None

    def chat_fields(self) -> dict[str, Any]:
        """See `CountBody.chat_fields`."""
        own = self.model_dump(include={"max_tokens", "temperature", "top_p", "top_k"}, exclude_none=True)
        return {**super().chat_fields(), **own, "stop": self.stop_sequences}


def chat_body(body: CountBody) -> ChatBody:
    """The request as a chat completion. Raises InvalidRequest, ValidationError."""
    return ChatBody.model_validate({name: value for name, value in body.chat_fields().items() if value is not None})


def _tool(tool: InputTool) -> dict[str, Any]:
    function = {"name": tool.name, "parameters": tool.input_schema}
    own = tool.model_dump(include={"description", "strict"}, exclude_none=True)
    return {"type": "function", "function": {**function, **own}}


def _choice_fields(choice: ToolChoice) -> dict[str, Any]:
    words: dict[str, Any] = {"auto": "auto", "any": "required", "none": "none"}
    named = {"type": "function", "function": {"name": choice.name or ""}}
    fields: dict[str, Any] = {"tool_choice": words.get(choice.type, named)}
    if choice.disable_parallel_tool_use is not None:
        fields["parallel_tool_calls"] = not choice.disable_parallel_tool_use
    return fields
