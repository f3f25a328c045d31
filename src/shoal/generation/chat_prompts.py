"""Conversations as prompts, with pictures if the model takes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from shoal.core.sequences.pictures import Pictures
from shoal.errors import InvalidRequest
from shoal.generation.data_plane import DataPlane
from shoal.generation.seams import PlacedPictures
from shoal.model.vision.pixels import PictureSource


class ChatPrompt(NamedTuple):
    """A conversation as a prompt."""

    text: str
    ids: tuple[int, ...]
    placed: PlacedPictures | None
    """The pictures of the prompt; None: there are none."""


async def chat_prompt(
    data_plane: DataPlane,
    messages: Sequence[Mapping[str, Any]],
    sources: Sequence[PictureSource],
    tools: Sequence[Mapping[str, Any]] | None = None,
    variables: Mapping[str, Any] | None = None,
) -> ChatPrompt:
    """Make a prompt from a conversation, as text and tokens, and read its pictures.

    Args:
        data_plane: the model's data plane.
        messages: the messages in the form of chat templates.
        sources: sources of the pictures in them, in order.
        tools: tools that the answer may call.
        variables: further variables of the template.

    Raises:
        InvalidRequest, ContextLengthExceeded: the messages are invalid, or do not fit.
        QueueFull: too many requests wait to be read.
    """
    if sources and data_plane.pictures is None:
        raise InvalidRequest(
            'this model takes text only: every part must be {"type": "text", "text": "..."}', param="messages"
        )
    text = await data_plane.prompts.chat_prompt(messages, tools, variables)
    if sources and data_plane.pictures is not None:
        placed = await data_plane.pictures.place(text, sources)
        return ChatPrompt(text, placed.prompt_ids, placed)
    (prompt_ids,) = await data_plane.prompts.encode([text], add_special=False, param="messages")
    return ChatPrompt(text, prompt_ids, None)


async def seen_pictures(data_plane: DataPlane, placed: PlacedPictures | None) -> Pictures | None:
    """The vectors of a prompt's pictures; None: it has none. Raises ShoalError."""
    if placed is None or data_plane.pictures is None:
        return None
    return await data_plane.pictures.compute(placed)
