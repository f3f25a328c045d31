"""Parts of a message in a body: texts and pictures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from shoal.generation.message_parts import Content, PictureContent, TextContent, content_of
from shoal.server.openai.body.fields import check_extra

_KNOWN = {"text": ("type", "text"), "image_url": ("type", "image_url")}
_HARMLESS = frozenset({"annotations", "cache_control", "prompt_cache_breakpoint"})
_PICTURE_HARMLESS = frozenset({"detail"})


def read_content(value: object, *, strict: bool) -> Content:
    """The content of a message: a text, to which parts that are all texts are joined, or parts, as chat templates
    expect them.

    Args:
        value: `content` of a message in a body.
        strict: whether unknown fields are refused.

    Raises:
        ValueError: the value is neither a text nor a list of known parts.
        InvalidRequest: a field of a part is refused, see `check_extra`.
    """
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if not isinstance(value, list):
        raise ValueError("must be a string or a list of text parts")
    return content_of([_part(part, strict) for part in cast(list[object], value)])


def _part(part: object, strict: bool) -> TextContent | PictureContent:
    fields = cast(dict[str, object], part) if isinstance(part, dict) else {}
    kind, text, named = fields.get("type"), fields.get("text"), fields.get("image_url")
    if kind == "text" and isinstance(text, str):
        _check(fields, "text", strict)
        return TextContent(text)
    picture = cast(dict[str, object], named) if isinstance(named, dict) else {"url": named}
    url = picture.get("url")
    if kind == "image_url" and isinstance(url, str):
        _check(fields, "image_url", strict)
        _check_extra(picture, ("url",), _PICTURE_HARMLESS, "messages.content.image_url.", strict)
        return PictureContent(url)
    raise ValueError(
        'this model takes text only: every part must be {"type": "text", "text": "..."}, or of a model that sees, '
        '{"type": "image_url", "image_url": {"url": "..."}}'
    )


def _check(fields: Mapping[str, object], kind: str, strict: bool) -> None:
    _check_extra(fields, _KNOWN[kind], _HARMLESS, "messages.content.", strict)


def _check_extra(
    fields: Mapping[str, object], known: tuple[str, ...], harmless: frozenset[str], prefix: str, strict: bool
) -> None:
    extra = {name: value for name, value in fields.items() if name not in known}
    check_extra(extra, known, {}, harmless, prefix, strict=strict)
