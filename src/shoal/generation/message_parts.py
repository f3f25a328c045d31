"""Parts of a message: texts and pictures."""

from __future__ import annotations

from dataclasses import dataclass

from shoal.model.vision.pixels import PictureSource


@dataclass(frozen=True, slots=True)
class TextContent:
    """Text."""

    text: str

    def template_form(self) -> dict[str, str]:
        """As chat templates take it."""
        return {"type": "text", "text": self.text}


@dataclass(frozen=True, slots=True)
class PictureContent:
    """A picture."""

    source: PictureSource

    def template_form(self) -> dict[str, str]:
        """As chat templates take it, which only mark where it is."""
        return {"type": "image"}


Content = str | tuple[TextContent | PictureContent, ...]
"""what a message says: a text, or parts of which one at least is a picture"""


def content_of(parts: list[TextContent | PictureContent]) -> Content:
    """Parts as one content: those that are texts alone are one text."""
    texts = [part.text for part in parts if isinstance(part, TextContent)]
    return "\n".join(texts) if len(texts) == len(parts) else tuple(parts)


def template_content(content: Content) -> str | list[dict[str, str]]:
    """A content as chat templates take it."""
    return content if isinstance(content, str) else [part.template_form() for part in content]


def picture_sources(contents: list[Content]) -> list[PictureSource]:
    """Of all pictures, in order."""
    parts = [part for content in contents if not isinstance(content, str) for part in content]
    return [part.source for part in parts if isinstance(part, PictureContent)]
