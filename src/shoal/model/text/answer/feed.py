"""Text that arrives in pieces, for parsers that are written as if the whole text were there.

A parser is a generator that takes text from a `Feed` with `yield from`, and pauses until more text has arrived.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import TypeVar

ResultT = TypeVar("ResultT")
Reading = Generator[None, None, ResultT]
"""A parser, or a part of one, that pauses until more text has arrived."""


class EndOfText(Exception):
    """The text ended in the middle of what a parser was reading."""


class Feed:
    """The text that has arrived and has not been read yet."""

    def __init__(self) -> None:
        self._text = ""
        self._is_closed = False
        self._taken: list[str] | None = None
        """Text taken since `remember`."""

    def add(self, text: str) -> None:
        """More text has arrived."""
        self._text += text

    def close(self) -> None:
        """No more text will arrive."""
        self._is_closed = True

    def rest(self) -> str:
        """Take all text that is there."""
        text, self._text = self._text, ""
        return text

    def remember(self) -> None:
        """Record what is taken from now on, for `forget`."""
        self._taken = []

    def forget(self) -> str:
        """The text taken since `remember`, character for character."""
        taken, self._taken = self._taken or [], None
        return "".join(taken)

    def put_back(self, text: str) -> None:
        """Return text that was taken, so that it is read again."""
        self._text = text + self._text

    def peek(self) -> Reading[str]:
        """The next character, without taking it; empty at the end of the text."""
        while not self._text and not self._is_closed:
            yield
        return self._text[:1]

    def take(self) -> Reading[str]:
        """Take the next character. Raises EndOfText."""
        character = yield from self.peek()
        if not character:
            raise EndOfText
        return self._consume(1)

    def skip_space(self) -> Reading[None]:
        """Take white space."""
        while (character := (yield from self.peek())) and character.isspace():
            self._consume(len(self._text) - len(self._text.lstrip()))

    def starts_with(self, marker: str) -> Reading[bool]:
        """Whether the text continues with a marker, which is not taken."""
        while len(self._text) < len(marker) and marker.startswith(self._text) and not self._is_closed:
            yield
        return self._text.startswith(marker)

    def take_marker(self, marker: str) -> Reading[bool]:
        """Take a marker if the text continues with it. Returns whether it does."""
        found = yield from self.starts_with(marker)
        if found:
            self._consume(len(marker))
        return found

    def pass_until(self, markers: Sequence[str], emit: Callable[[str], None]) -> Reading[str | None]:
        """Take text up to the first of some markers, and that marker.

        Args:
            markers: not empty; if two begin at the same place, the first in this order counts.
            emit: called with text as soon as it is certain that no marker begins in it.

        Returns: the marker; None: the text ended without one.
        """
        while True:
            found = [(self._text.find(marker), order) for order, marker in enumerate(markers) if marker in self._text]
            if found:
                place, order = min(found)
                emit(self._consume(place))
                return self._consume(len(markers[order]))
            num_certain = len(self._text) - (0 if self._is_closed else _held(self._text, markers))
            emit(self._consume(num_certain))
            if self._is_closed:
                return None
            yield

    def read_until(self, markers: Sequence[str]) -> Reading[str]:
        """Take the text up to the first of some markers, and that marker. Raises EndOfText."""
        pieces: list[str] = []
        if (yield from self.pass_until(markers, pieces.append)) is None:
            self.put_back("".join(pieces))
            raise EndOfText
        return "".join(pieces)

    def _consume(self, num_chars: int) -> str:
        text, self._text = self._text[:num_chars], self._text[num_chars:]
        if self._taken is not None:
            self._taken.append(text)
        return text


def _held(text: str, markers: Sequence[str]) -> int:
    """Number of characters at the end of the text that may be the beginning of a marker."""
    longest = min(len(text), max(map(len, markers)) - 1)
    for length in range(longest, 0, -1):
        if any(marker.startswith(text[-length:]) for marker in markers):
            return length
    return 0
