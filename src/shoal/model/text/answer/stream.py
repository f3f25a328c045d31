"""An answer read piece by piece."""

from __future__ import annotations

from shoal.model.text.answer.answer import Answer, Reader, Schemas
from shoal.model.text.answer.feed import Feed
from shoal.model.text.answer.parts import AnswerPart


class AnswerStream:
    """Reads one answer as it comes. What it yields in the end does not depend on where the text was cut."""

    def __init__(self, reader: Reader, schemas: Schemas) -> None:
        """
        Args:
            reader: of the model's family.
            schemas: of the tools that the request offers.
        """
        self._feed = Feed()
        self._answer = Answer()
        self._reading = reader(self._feed, self._answer, schemas)
        self._is_done = False

    @property
    def num_calls(self) -> int:
        """Calls that have begun."""
        return self._answer.num_calls

    def push(self, text: str) -> list[AnswerPart]:
        """Take more text; what is certain now."""
        self._feed.add(text)
        self._advance()
        return self._answer.take()

    def close(self) -> list[AnswerPart]:
        """No more text comes; the rest."""
        self._feed.close()
        self._advance()
        self._answer.content(self._feed.rest())
        return self._answer.take()

    def _advance(self) -> None:
        if not self._is_done:
            try:
                next(self._reading)
            except StopIteration:
                self._is_done = True
