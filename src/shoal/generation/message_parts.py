"""The parts of a message: texts and pictures."""

from __future__ import annotations

from dataclasses import dataclass

from shoal.model.vision.pixels import PictureSource


@dataclass(frozen=True, slots=True)
class TextContent:
    """A text part."""

    text: str

    def template_form(self) -> dict[str, str]:
        """The part in the form of chat templates."""
        return {"type": "text", "text": self.text}


@dataclass(frozen=True, slots=True)
class PictureContent:
    """A picture part."""

    source: PictureSource

    def template_form(self) -> dict[str, str]:
        """The part in the form of chat templates, which only mark its place."""
        return {"type": "image"}


Content = str | tuple[TextContent | PictureContent, ...]
"""The content of a message: a text, or parts with at least one picture."""


def content_of(parts: list[TextContent | PictureContent]) -> Content:
    """Make a content from parts; parts without pictures are joined into one text."""
    texts = [part.text for part in parts if isinstance(part, TextContent)]
    return "\n".join(texts) if len(texts) == len(parts) else tuple(parts)


def template_content(content: Content) -> str | list[dict[str, str]]:
    """A content in the form of chat templates."""
    return content if isinstance(content, str) else [part.template_form() for part in content]


def picture_sources(contents: list[Content]) -> list[PictureSource]:
    """The sources of all pictures, in order."""
    parts = [part for content in contents if not isinstance(content, str) for part in content]
    return [part.source for part in parts if isinstance(part, PictureContent)]
