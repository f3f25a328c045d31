"""Reads an answer piece by piece."""

from __future__ import annotations

from shoal.model.text.answer.answer import Answer, Reader, Schemas
from shoal.model.text.answer.feed import Feed
from shoal.model.text.answer.parts import AnswerPart, Content


class AnswerStream:
    """Reads one answer as it arrives. The result does not depend on where the text was cut into pieces."""

    def __init__(self, reader: Reader, schemas: Schemas, *, calls_only: bool = False) -> None:
        """
        Args:
            reader: of the model's family.
            schemas: of the tools that the request offers.
            calls_only: the answer is nothing but calls; what else there is, is a call that was cut before its name.
        """
        self._calls_only = calls_only
        self._feed = Feed()
        self._answer = Answer()
        self._reading = reader(self._feed, self._answer, schemas)
        self._is_done = False

    @property
    def num_calls(self) -> int:
        """Number of calls that have begun."""
        return self._answer.num_calls

    def push(self, text: str) -> list[AnswerPart]:
        """Read more text. Returns the parts that are certain now."""
        self._feed.add(text)
        self._advance()
        return self._take()

    def close(self) -> list[AnswerPart]:
        """Finish the answer. Returns its last parts."""
        self._feed.close()
        self._advance()
        self._answer.content(self._feed.rest())
        return self._take()

    def _take(self) -> list[AnswerPart]:
        parts = self._answer.take()
        return [part for part in parts if not isinstance(part, Content)] if self._calls_only else parts

    def _advance(self) -> None:
        if not self._is_done:
            try:
                next(self._reading)
            except StopIteration:
                self._is_done = True
