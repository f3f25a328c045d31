"""The checked body of /v1/responses, and its conversion to a chat completion.

Source: OpenAI API reference, "Create a model response". Fields that would change the answer but are not implemented are
refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from shoal.errors import InvalidRequest
from shoal.server.openai.body.api_schema import ApiSchema
from shoal.server.openai.body.chat_body import MAX_MESSAGES, ChatBody
from shoal.server.openai.body.tool_schemas import MAX_TOOLS
from shoal.server.responses.tools import NamedTool, Tool, chat_call, full_name

Message = Mapping[str, Any]
"""A message of a chat completion."""
_IGNORED = frozenset(
    {
        "metadata",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "safety_identifier",
        "service_tier",
        "stream_options",
        "user",
    }
)
"""Fields about accounts, caches and additional data, which do not change the answer's text."""
_NEUTRAL: Mapping[str, tuple[object, ...]] = {
    "access_programs": (),
    "background": (False,),
    "background_options": (),
    "context_management": ([],),
    "conversation": (),
    "image": (),
    "max_tool_calls": (),
    "moderation": (),
    "prompt": (),
    "top_logprobs": (0,),
    "truncation": ("disabled",),
}
"""Fields that are not implemented: values other than these (and null) are refused."""
_OF_ITEMS = frozenset({"id", "status"})
_WITHOUT_WAITING: Mapping[str, tuple[object, ...]] = {"async": (False,)}


class TextPart(ApiSchema):
    """Text of a message, of reasoning or of a function's result."""

    harmless = frozenset({"annotations", "logprobs", "prompt_cache_breakpoint"})
    prefix = "input.content."

    type: Literal["input_text", "output_text", "text", "reasoning_text", "summary_text"]
    text: str


class PicturePart(ApiSchema):
    """A picture of a message."""

    harmless = frozenset({"detail", "prompt_cache_breakpoint"})
    neutral: ClassVar[Mapping[str, tuple[object, ...]]] = {"file_id": ()}
    prefix = "input.content."

    type: Literal["input_image"]
    image_url: str


class MessageItem(ApiSchema):
    """One turn of the conversation."""

    harmless = _OF_ITEMS | {"phase"}
    neutral = _WITHOUT_WAITING
    prefix = "input."

    type: Literal["message"] | None = None
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Annotated[TextPart | PicturePart, Field(discriminator="type")]]


class CallItem(ApiSchema):
    """A call in an earlier answer."""

    harmless = _OF_ITEMS | {"caller"}
    neutral = _WITHOUT_WAITING
    prefix = "input."

    type: Literal["function_call"]
    call_id: str
    name: str
    namespace: str | None = None
    arguments: str


class CallOutputItem(ApiSchema):
    """The result of a call."""

    harmless = _OF_ITEMS | {"caller"}
    neutral = _WITHOUT_WAITING
    prefix = "input."

    type: Literal["function_call_output"]
    call_id: str
    output: str | list[TextPart]


class ReasoningItem(ApiSchema):
    """The model's reasoning in an earlier answer."""

    harmless = _OF_ITEMS | {"encrypted_content", "summary"}
    prefix = "input."

    type: Literal["reasoning"]
    content: list[TextPart] | None = None


Item = MessageItem | CallItem | CallOutputItem | ReasoningItem


class TextFormat(ApiSchema):
    """The format that the answer must have."""

    harmless = frozenset({"description"})
    prefix = "text.format."

    type: Literal["text", "json_object", "json_schema"]
    name: str | None = None
    schema_: Annotated[dict[str, Any] | None, Field(alias="schema")] = None
    strict: bool | None = None


class TextOptions(ApiSchema):
    """`text` of the body."""

    prefix = "text."

    format: TextFormat | None = None
    verbosity: Literal["medium"] | None = None


class ReasoningOptions(ApiSchema):
    """`reasoning` of the body. There are no summaries: the reasoning itself is returned."""

    harmless = frozenset({"generate_summary"})
    neutral: ClassVar[Mapping[str, tuple[object, ...]]] = {"context": ("auto",), "mode": ("standard",)}
    prefix = "reasoning."

    effort: str | None = None
    summary: str | None = None


class ResponsesBody(ApiSchema):
    """POST /v1/responses."""

    neutral = _NEUTRAL
    harmless = _IGNORED

    model: str | None = None
    include: list[str] | None = None
    """Additional data to return: only what is returned anyway is accepted."""
    input: str | Annotated[list[Item], Field(min_length=1, max_length=MAX_MESSAGES)]
    instructions: str | None = None
    tools: Annotated[list[Tool], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    max_output_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    text: TextOptions | None = None
    reasoning: ReasoningOptions | None = None
    stream: bool | None = None
    store: bool | None = None
    previous_response_id: str | None = None

    @model_validator(mode="after")
    def _check_include(self) -> ResponsesBody:
        if "message.output_text.logprobs" in (self.include or ()):
            raise InvalidRequest("`include` asks for log-probabilities, which responses do not have here", "include")
        return self

    def new_messages(self) -> list[Message]:
        """The messages that the input adds to the conversation."""
        if isinstance(self.input, str):
            return [{"role": "user", "content": self.input}]
        return to_messages(self.input)

    def chat_body(self, messages: Sequence[Message]) -> ChatBody:
        """The request as a chat completion over a whole conversation. Raises InvalidRequest, ValidationError."""
        first = [{"role": "system", "content": self.instructions}] if self.instructions else []
        choice = self.tool_choice
        if isinstance(choice, NamedTool):
            choice = {"type": "function", "function": {"name": full_name(choice.namespace, choice.name)}}
        fields = {
            "messages": [*first, *messages],
            "tools": [form for tool in self.tools or () for form in tool.chat_forms()] or None,
            "tool_choice": choice,
            "parallel_tool_calls": self.parallel_tool_calls,
            "max_completion_tokens": self.max_output_tokens,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "reasoning_effort": self.reasoning and self.reasoning.effort,
            "response_format": self._response_format(),
        }
        return ChatBody.model_validate({name: value for name, value in fields.items() if value is not None})

    def _response_format(self) -> dict[str, Any] | None:
        form = self.text and self.text.format
        if form is None:
            return None
        if form.type != "json_schema":
            return {"type": form.type}
        return {"type": "json_schema", "json_schema": {"name": form.name or "output", "schema": form.schema_}}


def to_messages(items: Iterable[Item]) -> list[Message]:
    """Items as chat messages: consecutive reasoning, text and calls are one answer."""
    messages: list[dict[str, Any]] = []
    for item in items:
        match item:
            case MessageItem(role="assistant"):
                _answer(messages)["content"] += _joined(item.content)
            case MessageItem():
                messages.append({"role": item.role, "content": _content(item.content)})
            case CallItem():
                call = chat_call(item.call_id, item.namespace, item.name, item.arguments)
                _answer(messages).setdefault("tool_calls", []).append(call)
            case CallOutputItem():
                messages.append({"role": "tool", "tool_call_id": item.call_id, "content": _joined(item.output)})
            case ReasoningItem():
                if item.content:
                    _answer(messages)["reasoning_content"] = _joined(item.content)
    return list(messages)


def _answer(messages: list[dict[str, Any]]) -> dict[str, Any]:
    """The assistant's message at the end, which is added if there is none."""
    if not messages or messages[-1]["role"] != "assistant":
        messages.append({"role": "assistant", "content": ""})
    return messages[-1]


def _content(content: str | Sequence[TextPart | PicturePart]) -> str | list[dict[str, Any]]:
    """A text, or parts in the form of chat completions."""
    if isinstance(content, str):
        return content
    return [
        {"type": "text", "text": part.text}
        if isinstance(part, TextPart)
        else {"type": "image_url", "image_url": {"url": part.image_url}}
        for part in content
    ]


def _joined(content: str | Sequence[TextPart | PicturePart]) -> str:
    if isinstance(content, str):
        return content
    return "\n".join(part.text for part in content if isinstance(part, TextPart))
