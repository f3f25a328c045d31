"""The checked body of /v1/chat/completions."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, model_validator

from shoal.errors import InvalidRequest
from shoal.generation.message_parts import Content, picture_sources, template_content
from shoal.model.vision.pixels import PictureSource
from shoal.server.openai.body.content_parts import read_content
from shoal.server.openai.body.fields import (
    MESSAGE_HARMLESS,
    MESSAGE_NEUTRAL,
    check_extra,
    is_strict,
)
from shoal.server.openai.body.generation_body import MAX_LOGPROBS, BodySchema, GenerationBody, TokenLimit
from shoal.server.openai.body.tool_schemas import MAX_TOOLS, NamedChoice, Tool, ToolCall, ToolChoice, check_choice

MAX_MESSAGES = 4096
"""Most messages of a conversation: two thousand questions and answers. Several hundred fill a context of 128 thousand
tokens."""


def _content(value: object, info: ValidationInfo) -> object:
    return read_content(value, strict=is_strict(info))


class ChatMessage(BodySchema):
    """One turn of a conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Annotated[Content, BeforeValidator(_content)] = ""
    name: str | None = None
    reasoning_content: str | None = None
    tool_calls: Annotated[list[ToolCall], Field(max_length=MAX_TOOLS)] | None = None
    tool_call_id: str | None = None

    def template_form(self) -> dict[str, Any]:
        """The message as chat templates expect it; `developer` is OpenAI's newer word for `system`."""
        fields = self.model_dump(include={"name", "reasoning_content", "tool_call_id"}, exclude_none=True)
        fields["content"] = template_content(self.content)
        if self.tool_calls:
            fields["tool_calls"] = [call.template_form() for call in self.tool_calls]
        return {"role": "system" if self.role == "developer" else self.role, **fields}


class ChatBody(GenerationBody):
    """POST /v1/chat/completions."""

    endpoint = "chat"

    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=MAX_MESSAGES)]
    max_completion_tokens: TokenLimit | None = None
    tools: Annotated[list[Tool], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None

    @model_validator(mode="after")
    def _check_messages(self, info: ValidationInfo) -> ChatBody:
        known, strict = ChatMessage.model_fields, is_strict(info)
        for place, message in enumerate(self.messages):
            extra, prefix = message.model_extra or {}, f"messages[{place}]."
            check_extra(extra, known, MESSAGE_NEUTRAL, MESSAGE_HARMLESS, prefix, strict=strict)
        return self

    @model_validator(mode="after")
    def _check_tools(self) -> ChatBody:
        check_choice(self.tool_choice, [tool.function.name for tool in self.tools or ()])
        if self.demands_calls and self.constraint is not None and self.constraint.field != "response_format":
            raise InvalidRequest(
                f"`{self.constraint.field}` and `tool_choice` both say what the output must look like: leave one out",
                param="tool_choice",
            )
        return self

    @model_validator(mode="after")
    def _check_logprobs(self) -> ChatBody:
        if self.top_logprobs is not None and not self.logprobs:
            raise InvalidRequest("`top_logprobs` needs `logprobs`: true", param="top_logprobs")
        return self

    @property
    def num_logprobs(self) -> int | None:
        """The number of most likely tokens to return, as in `Sampling.num_logprobs`."""
        return (self.top_logprobs or 0) if self.logprobs else None

    @property
    def output_tokens_limit(self) -> int | None:
        """Most output tokens; None: what the context leaves."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    @property
    def demands_calls(self) -> bool:
        """Whether the answer must call a tool."""
        return self.tool_choice not in (None, "none", "auto")

    @property
    def offered_tools(self) -> list[Tool]:
        """The tools that the answer may call."""
        if self.tool_choice == "none":
            return []
        if isinstance(self.tool_choice, NamedChoice):
            return [tool for tool in self.tools or () if tool.function.name == self.tool_choice.function.name]
        return self.tools or []

    @property
    def pictures(self) -> list[PictureSource]:
        """The sources of all pictures, in order."""
        return picture_sources([message.content for message in self.messages])

    def template_messages(self) -> list[dict[str, Any]]:
        """The conversation as chat templates expect it."""
        return [message.template_form() for message in self.messages]

    def template_variables(self) -> dict[str, Any]:
        """Further variables for the model's template."""
        effort = {} if self.reasoning_effort is None else {"reasoning_effort": self.reasoning_effort}
        return {**effort, **(self.chat_template_kwargs or {})}
