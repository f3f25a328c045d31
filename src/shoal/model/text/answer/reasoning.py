"""Reasoning between tags before an answer."""

from __future__ import annotations

from dataclasses import dataclass

from shoal.model.text.answer.answer import Answer, Reader, Schemas
from shoal.model.text.answer.feed import Feed, Reading


@dataclass(frozen=True, slots=True, kw_only=True)
class TaggedReasoning:
    """Reads reasoning first, and leaves the rest to another reader."""

    begin: str = "<think>"
    end: str = "</think>"
    is_open: bool = False
    """Whether the prompt ended with the tag that begins reasoning."""
    then: Reader

    def __call__(self, feed: Feed, answer: Answer, schemas: Schemas) -> Reading[None]:
        """Implements `Reader`."""
        yield from feed.skip_space()
        if (yield from feed.take_marker(self.begin)) or self.is_open:
            yield from feed.skip_space()
            yield from feed.pass_until((self.end,), answer.reasoning)
            yield from feed.skip_space()
        yield from self.then(feed, answer, schemas)


def plain_text(feed: Feed, answer: Answer, schemas: Schemas) -> Reading[None]:
    """All text is visible. Implements `Reader`."""
    while True:
        answer.content(feed.rest())
        if not (yield from feed.peek()):
            return
