"""The turns of a conversation and their content blocks, and the same turns as messages of a chat completion.

Source: Anthropic API reference, "Create a Message".
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from shoal.server.openai.body.api_schema import ApiSchema

_TOOLSET: Mapping[str, tuple[object, ...]] = {"toolset_name": ()}


class TextBlock(ApiSchema):
    """A block of text."""

    harmless = frozenset({"cache_control", "citations"})
    prefix = "content."

    type: Literal["text"]
    text: str


class PictureSource(ApiSchema):
    """A picture's file, or its URL."""

    prefix = "content.source."

    type: Literal["base64", "url"]
    media_type: Annotated[str, Field(pattern=r"^image/[\w.+-]{1,40}$")] | None = None
    data: str = ""
    url: str = ""

    @property
    def as_url(self) -> str:
        """The picture as a URL, as OpenAI's messages have it."""
        return self.url if self.type == "url" else f"data:{self.media_type or 'image/png'};base64,{self.data}"


class PictureBlock(ApiSchema):
    """A picture."""

    harmless = frozenset({"cache_control"})
    neutral: ClassVar[Mapping[str, tuple[object, ...]]] = {"transformations": ()}
    prefix = "content."

    type: Literal["image"]
    source: PictureSource


class ThinkingBlock(ApiSchema):
    """The model's reasoning in an earlier answer."""

    harmless = frozenset({"signature"})
    prefix = "content."

    type: Literal["thinking"]
    thinking: str


class ToolUseBlock(ApiSchema):
    """A call in an earlier answer."""

    harmless = frozenset({"cache_control", "caller"})
    neutral = _TOOLSET
    prefix = "content."

    type: Literal["tool_use"]
    id: str
    name: str
    input: dict[str, Any]


class ToolResultBlock(ApiSchema):
    """The result of a call."""

    harmless = frozenset({"cache_control"})
    neutral = _TOOLSET
    prefix = "content."

    type: Literal["tool_result"]
    tool_use_id: str
    content: str | list[Annotated[TextBlock | PictureBlock, Field(discriminator="type")]] = ""
    is_error: bool | None = None


Block = Annotated[
    TextBlock | PictureBlock | ThinkingBlock | ToolUseBlock | ToolResultBlock,
    Field(discriminator="type"),
]


class InputMessage(ApiSchema):
    """One turn of the conversation. Instructions may also come in the middle of it."""

    role: Literal["user", "assistant", "system"]
    content: str | list[Block]


def chat_turns(message: InputMessage) -> Iterator[dict[str, Any]]:
    """One message as several: results of calls become messages of their own, before the rest of the user's message."""
    if isinstance(message.content, str):
        yield {"role": message.role, "content": message.content}
        return
    blocks = message.content
    for block in blocks:
        if isinstance(block, ToolResultBlock):
            yield {"role": "tool", "tool_call_id": block.tool_use_id, "content": _content(block.content)}
    shown = [block for block in blocks if isinstance(block, TextBlock | PictureBlock)]
    fields: dict[str, Any] = {"role": message.role, "content": _content(shown)}
    if calls := [_call(block) for block in blocks if isinstance(block, ToolUseBlock)]:
        fields["tool_calls"] = calls
    if thoughts := [block.thinking for block in blocks if isinstance(block, ThinkingBlock)]:
        fields["reasoning_content"] = "".join(thoughts)
    if shown or len(fields) > 2:
        yield fields


def _content(content: str | Sequence[TextBlock | PictureBlock]) -> str | list[dict[str, Any]]:
    """A text, or parts if one of them is a picture."""
    if isinstance(content, str):
        return content
    return [
        {"type": "text", "text": block.text}
        if isinstance(block, TextBlock)
        else {"type": "image_url", "image_url": {"url": block.source.as_url}}
        for block in content
    ]


def joined_text(content: str | list[TextBlock] | None) -> str:
    """Blocks of text joined to one text."""
    return content if isinstance(content, str) else "\n".join(block.text for block in content or ())


def _call(block: ToolUseBlock) -> dict[str, Any]:
    return {"id": block.id, "type": "function", "function": {"name": block.name, "arguments": json.dumps(block.input)}}
