"""Parts of a message: texts and pictures."""

from __future__ import annotations

from dataclasses import dataclass


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

    url: str
    """`data:image/...;base64,...`, or where it is to be fetched"""

    def template_form(self) -> dict[str, str]:
        """As chat templates take it, which only mark where it is."""
        return {"type": "image"}
