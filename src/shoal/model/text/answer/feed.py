"""Text that comes in pieces, read by a parser that is written as if it were there as a whole.

A parser is a generator that takes text from a `Feed` with `yield from` and pauses where there is none yet.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import TypeVar

ResultT = TypeVar("ResultT")
Reading = Generator[None, None, ResultT]
"""a parser, or a part of one, that pauses until there is more text"""


class EndOfText(Exception):
    """The text ended before what a parser was reading did."""


class Feed:
    """The text that has come and was not read."""

    def __init__(self) -> None:
        self._text = ""
        self._is_closed = False
        self._taken: list[str] | None = None
        """what was taken since `remember`"""

    def add(self, text: str) -> None:
        """More text has come."""
        self._text += text

    def close(self) -> None:
        """No more text comes."""
        self._is_closed = True

    def rest(self) -> str:
        """Take all that is there."""
        text, self._text = self._text, ""
        return text

    def remember(self) -> None:
        """Keep what is taken from now on, for `forget`."""
        self._taken = []

    def forget(self) -> str:
        """What was taken since `remember`, character for character."""
        taken, self._taken = self._taken or [], None
        return "".join(taken)

    def put_back(self, text: str) -> None:
        """Text that was taken is to be read again."""
        self._text = text + self._text

    def peek(self) -> Reading[str]:
        """The next character, which stays there; empty at the end of the text."""
        while not self._text and not self._is_closed:
            yield
        return self._text[:1]

    def take(self) -> Reading[str]:
        """The next character. Raises EndOfText."""
        character = yield from self.peek()
        if not character:
            raise EndOfText
        return self._consume(1)

    def skip_space(self) -> Reading[None]:
        """Take white space."""
        while (character := (yield from self.peek())) and character.isspace():
            self._consume(len(self._text) - len(self._text.lstrip()))

    def starts_with(self, marker: str) -> Reading[bool]:
        """Whether a marker comes next, which stays there."""
        while len(self._text) < len(marker) and marker.startswith(self._text) and not self._is_closed:
            yield
        return self._text.startswith(marker)

    def take_marker(self, marker: str) -> Reading[bool]:
        """Take a marker if it comes next; whether it does."""
        found = yield from self.starts_with(marker)
        if found:
            self._consume(len(marker))
        return found

    def pass_until(self, markers: Sequence[str], emit: Callable[[str], None]) -> Reading[str | None]:
        """Take text up to the first of some markers, and that marker.

        Args:
            markers: not empty; of two that begin at the same place the first in order counts.
            emit: told the text as soon as it is certain that no marker begins in it.

        Returns: the marker; None: the text has ended without one.
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
        """The text up to the first of some markers, which is taken as well. Raises EndOfText."""
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
    """Characters at the end of the text that may be the beginning of a marker."""
    longest = min(len(text), max(map(len, markers)) - 1)
    for length in range(longest, 0, -1):
        if any(marker.startswith(text[-length:]) for marker in markers):
            return length
    return 0
