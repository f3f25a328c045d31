"""Calls as JSON objects with a name and arguments: Hermes, Qwen 2.5 and 3, Llama 3, Granite, Phi-4-mini."""

from __future__ import annotations

from dataclasses import dataclass

from shoal.model.text.answer.answer import Answer, Schemas
from shoal.model.text.answer.calls.json_reading import NotJson, expect, pass_value, read_string, read_value
from shoal.model.text.answer.feed import EndOfText, Feed, Reading

_ARGUMENT_KEYS = ("arguments", "parameters")


@dataclass(frozen=True, slots=True, kw_only=True)
class JsonCalls:
    """Objects, or lists of them, between markers. What turns out not to be a call is text."""

    begins: tuple[str, ...]
    """Markers before calls, any of which may be used."""
    end: str = ""
    """Marker after calls, which may be missing; empty: there is none."""
    is_bare: bool = False
    """Whether an answer that begins with an object needs no marker; further objects follow after `;`."""

    def __call__(self, feed: Feed, answer: Answer, schemas: Schemas) -> Reading[None]:
        """Implements `Reader`."""
        if self.is_bare:
            yield from feed.skip_space()
            if (yield from feed.peek()) == "{":
                yield from self._read_section(feed, answer, is_marked=False)
        while (yield from feed.pass_until(self.begins, answer.content)) is not None:
            yield from self._read_section(feed, answer)

    def _read_section(self, feed: Feed, answer: Answer, *, is_marked: bool = True) -> Reading[None]:
        try:
            yield from read_json_calls(feed, answer, is_marked=is_marked)
            while self.is_bare and (yield from _take_semicolon(feed)):
                yield from read_json_calls(feed, answer)
        except (NotJson, EndOfText):
            return
        yield from feed.skip_space()
        if self.end:
            yield from feed.take_marker(self.end)


def read_json_calls(feed: Feed, answer: Answer, *, is_marked: bool = True) -> Reading[None]:
    """Read one object, or a list of them. Raises NotJson, EndOfText.

    `is_marked`: whether a marker announced a call, so that a broken one is not text either.
    """
    yield from feed.skip_space()
    if not (yield from feed.take_marker("[")):
        yield from _read_call(feed, answer, is_marked=is_marked)
        return
    while True:
        yield from _read_call(feed, answer)
        if (yield from expect(feed, ",", "]")) == "]":
            return


def pass_arguments(feed: Feed, answer: Answer) -> Reading[None]:
    """Pass on an object as it arrives; one that was written as a string is unescaped first. Raises NotJson,
    EndOfText."""
    yield from feed.skip_space()
    if (yield from feed.peek()) == '"':
        answer.arguments((yield from read_string(feed)))
    else:
        yield from pass_value(feed, answer.arguments)


def _read_call(feed: Feed, answer: Answer, *, is_marked: bool = True) -> Reading[None]:
    """`{"name": ..., "arguments": {...}}` with its keys in any order. Raises NotJson, EndOfText."""
    num_before = answer.num_calls
    feed.remember()
    try:
        yield from _read_members(feed, answer)
    except EndOfText:
        if is_marked:
            feed.forget()
        raise
    finally:
        text = feed.forget()
        if answer.num_calls == num_before:
            answer.content(text)


def _read_members(feed: Feed, answer: Answer) -> Reading[None]:
    is_named, arguments, are_passed = False, "", False
    yield from expect(feed, "{")
    separator = ","
    while separator == ",":
        yield from feed.skip_space()
        key = yield from read_string(feed)
        yield from expect(feed, ":")
        if key == "name" and not is_named:
            answer.start((yield from read_string(feed)))
            is_named = True
        elif key in _ARGUMENT_KEYS and is_named and not are_passed:
            yield from pass_arguments(feed, answer)
            are_passed = True
        elif key in _ARGUMENT_KEYS and not arguments:
            arguments = yield from read_value(feed)
        else:
            yield from read_value(feed)
        separator = yield from expect(feed, ",", "}")
    if is_named and not are_passed:
        answer.arguments(arguments or "{}")


def _take_semicolon(feed: Feed) -> Reading[bool]:
    yield from feed.skip_space()
    return (yield from feed.take_marker(";"))
