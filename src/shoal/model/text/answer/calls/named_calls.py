"""Calls as a name, a marker and arguments in JSON: Mistral, DeepSeek, Kimi K2."""

from __future__ import annotations

from dataclasses import dataclass

from shoal.model.text.answer.answer import Answer, Schemas
from shoal.model.text.answer.calls.json_calls import pass_arguments, read_json_calls
from shoal.model.text.answer.calls.json_reading import NotJson
from shoal.model.text.answer.feed import EndOfText, Feed, Reading

_KIND = "function"
"""DeepSeek V3 writes this kind of call where later versions write its name, and the name on the next line."""
_FENCE = "```"


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedCalls:
    """The markers of a format with sections of calls."""

    section: str
    """Marker before the first call of a section."""
    begin: str = ""
    """Marker before each name; empty: a section has one call."""
    separator: str
    """Marker between a name and its arguments."""
    end: str = ""
    """Marker after the arguments."""
    section_end: str = ""
    may_be_list: bool = False
    """Whether a section may be a list of objects with names and arguments instead."""

    def __call__(self, feed: Feed, answer: Answer, schemas: Schemas) -> Reading[None]:
        """Implements `Reader`."""
        while (yield from feed.pass_until((self.section,), answer.content)) is not None:
            try:
                yield from self._read_section(feed, answer)
            except (NotJson, EndOfText):
                continue

    def _read_section(self, feed: Feed, answer: Answer) -> Reading[None]:
        yield from feed.skip_space()
        if self.may_be_list and (yield from feed.peek()) in ("[", "{"):
            yield from read_json_calls(feed, answer)
        elif not self.begin:
            yield from self._read_call(feed, answer)
        else:
            while (yield from feed.take_marker(self.begin)):
                yield from self._read_call(feed, answer)
                yield from feed.skip_space()
            if self.section_end:
                yield from feed.take_marker(self.section_end)

    def _read_call(self, feed: Feed, answer: Answer) -> Reading[None]:
        name = yield from feed.read_until((self.separator,))
        yield from feed.skip_space()
        if name.strip() == _KIND and (yield from feed.peek()) != "{":
            name = yield from feed.read_until(("\n",))
        answer.start(_bare_name(name))
        yield from feed.skip_space()
        if (yield from feed.take_marker(_FENCE)):
            yield from feed.read_until(("\n",))
        yield from pass_arguments(feed, answer)
        yield from feed.skip_space()
        yield from feed.take_marker(_FENCE)
        yield from feed.skip_space()
        if self.end:
            yield from feed.take_marker(self.end)


def _bare_name(name: str) -> str:
    """The name without what families add to it: `functions.NAME:0` (Kimi K2), `NAME[CALL_ID]...` (Mistral)."""
    name = name.partition("[CALL_ID]")[0].strip().removeprefix("functions.")
    head, _, number = name.rpartition(":")
    return head if head and number.isdigit() else name
