"""JSON that arrives in pieces: values are passed on while they are still incomplete."""

from __future__ import annotations

import json
from collections.abc import Callable

from shoal.model.text.answer.feed import EndOfText, Feed, Reading

_MAX_DEPTH = 200


class NotJson(Exception):
    """The text is not JSON."""


def pass_value(feed: Feed, emit: Callable[[str], None]) -> Reading[None]:
    """Take one value and emit its text as it arrives, without white space before it.

    Raises:
        NotJson, EndOfText: possibly after a part of the text was emitted.
    """
    yield from feed.skip_space()
    first = yield from feed.peek()
    if first == '"':
        yield from _pass_string(feed, emit)
    elif first in ("{", "["):
        yield from _pass_nested(feed, emit)
    elif first and (first in "-tfn" or first.isdigit()):
        yield from _pass_word(feed, emit)
    elif first:
        raise NotJson(f"{first!r} begins no value")
    else:
        raise EndOfText


def read_value(feed: Feed) -> Reading[str]:
    """The text of one value. Raises NotJson, EndOfText."""
    pieces: list[str] = []
    yield from pass_value(feed, pieces.append)
    return "".join(pieces)


def read_string(feed: Feed) -> Reading[str]:
    """A string, with escapes resolved. Raises NotJson, EndOfText."""
    text = yield from read_value(feed)
    try:
        value = json.loads(text)
    except ValueError as error:
        raise NotJson(str(error)) from error
    if not isinstance(value, str):
        raise NotJson(f"{text[:20]} is no string")
    return value


def expect(feed: Feed, *wanted: str) -> Reading[str]:
    """Take one of these characters, and white space before it. Raises NotJson, EndOfText."""
    yield from feed.skip_space()
    character = yield from feed.peek()
    if not character:
        raise EndOfText
    if character not in wanted:
        raise NotJson(f"{character!r} instead of {' or '.join(wanted)}")
    return (yield from feed.take())


def _pass_string(feed: Feed, emit: Callable[[str], None]) -> Reading[None]:
    emit((yield from feed.take()))
    while True:
        character = yield from feed.take()
        emit(character)
        if character == "\\":
            emit((yield from feed.take()))
        elif character == '"':
            return


def _pass_nested(feed: Feed, emit: Callable[[str], None]) -> Reading[None]:
    """An object or an array: its brackets must match, the rest is passed on unchecked."""
    closing: list[str] = []
    while True:
        if (yield from feed.peek()) == '"':
            yield from _pass_string(feed, emit)
            continue
        character = yield from feed.take()
        emit(character)
        if character in "{[":
            closing.append("}" if character == "{" else "]")
            if len(closing) > _MAX_DEPTH:
                raise NotJson("it is nested too deeply")
        elif character in "}]":
            if character != closing.pop():
                raise NotJson("brackets do not match")
            if not closing:
                return


def _pass_word(feed: Feed, emit: Callable[[str], None]) -> Reading[None]:
    """A number, true, false or null."""
    while (character := (yield from feed.peek())) and (character.isalnum() or character in "+-."):
        emit((yield from feed.take()))
