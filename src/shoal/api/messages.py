"""Messages that callers of `shoal.LLM` write: texts, and pictures in all the forms that Python has them in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from shoal.errors import InvalidRequest
from shoal.generation.message_parts import Content, PictureContent, TextContent, content_of, template_content
from shoal.model.vision.pixels import OpenPicture, PictureSource, is_image

_URLS = ("data:", "http:", "https:")


def read_messages(messages: Sequence[Any]) -> tuple[list[dict[str, Any]], list[Content]]:
    """A conversation as chat templates take it, and what each message says.

    Raises:
        InvalidRequest: a message has no role, or a content that is neither a text nor a list of parts.
    """
    contents = [_content(message, place) for place, message in enumerate(messages)]
    forms = [
        {**message, "content": template_content(content)} for message, content in zip(messages, contents, strict=True)
    ]
    return forms, contents


def _content(message: Any, place: int) -> Content:
    if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
        raise InvalidRequest(f"messages[{place}] must be a mapping with a text 'role'", param="messages")
    content = message.get("content")
    if isinstance(content, str):
        return content
    if not isinstance(content, list | tuple):
        raise InvalidRequest(f"messages[{place}] must have a text, or a list of parts, as 'content'", param="messages")
    return content_of([_part(part, f"messages[{place}].content[{index}]") for index, part in enumerate(content)])


def _part(part: Any, name: str) -> TextContent | PictureContent:
    fields = part if isinstance(part, Mapping) else {}
    match fields.get("type"):
        case "text" if isinstance(fields.get("text"), str):
            return TextContent(fields["text"])
        case "image":
            return PictureContent(_source(fields.get("image"), name))
        case "image_url":
            named = fields.get("image_url")
            url = named.get("url") if isinstance(named, Mapping) else named
            if isinstance(url, str):
                return PictureContent(url)
    raise InvalidRequest(
        f'{name} must be {{"type": "text", "text": "..."}}, {{"type": "image", "image": ...}} or '
        '{"type": "image_url", "image_url": {"url": "..."}}',
        param="messages",
    )


def _source(image: Any, name: str) -> PictureSource:
    """A text is a path, unless it is a URL."""
    if isinstance(image, str):
        return image if image.lower().startswith(_URLS) else Path(image)
    if isinstance(image, Path | bytes):
        return image
    if is_image(image):
        return OpenPicture(image)
    raise InvalidRequest(
        f"{name}: a picture is a path, the bytes of a file, a PIL image or a URL, not {type(image).__name__}",
        param="messages",
    )
