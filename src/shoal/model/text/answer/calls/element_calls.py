"""Calls as elements, one a parameter: Qwen3-Coder, GLM 4.5 and later, MiniMax M2."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from shoal.model.text.answer.answer import Answer, Schemas
from shoal.model.text.answer.feed import EndOfText, Feed, Reading


@dataclass(frozen=True, slots=True, kw_only=True)
class ElementCalls:
    """Each marker ends what stands before it."""

    begin: str
    name_begin: str = ""
    """before the name, behind `begin`"""
    name_end: str
    """behind the name; it may be the marker before the first parameter"""
    key_begin: str
    key_end: str
    """behind the name of a parameter"""
    value_begin: str = ""
    """before its value, behind `key_end`"""
    value_end: str
    end: str
    around: tuple[str, ...] = ()
    """markers around several calls, which say nothing"""

    def __call__(self, feed: Feed, answer: Answer, schemas: Schemas) -> Reading[None]:
        """Implements `Reader`."""
        while (marker := (yield from feed.pass_until((self.begin, *self.around), answer.content))) is not None:
            if marker != self.begin:
                yield from feed.skip_space()
                continue
            try:
                yield from self._read_call(feed, answer, schemas)
            except EndOfText:
                answer.content(feed.rest())

    def _read_call(self, feed: Feed, answer: Answer, schemas: Schemas) -> Reading[None]:
        yield from feed.skip_space()
        if self.name_begin:
            yield from feed.take_marker(self.name_begin)
        pieces: list[str] = []
        marker = yield from feed.pass_until((self.name_end, self.end), pieces.append)
        if marker is None:
            feed.put_back("".join(pieces))
            raise EndOfText
        name = _unquoted("".join(pieces))
        answer.start(name)
        if marker == self.key_begin:
            feed.put_back(marker)
        opening = "{"
        if marker != self.end:
            properties = schemas.get(name, {}).get("properties", {})
            while (yield from self._has_parameter(feed)):
                key = _unquoted((yield from feed.read_until((self.key_end,))))
                if self.value_begin:
                    yield from feed.skip_space()
                yield from feed.take_marker(self.value_begin or "\n")
                value = yield from feed.read_until((self.value_end,))
                answer.arguments(f"{opening}{json.dumps(key)}: {_as_json(value, properties.get(key))}")
                opening = ", "
        answer.arguments("{}" if opening == "{" else "}")

    def _has_parameter(self, feed: Feed) -> Reading[bool]:
        """Whether another one comes, or else the end, which is taken."""
        marker = yield from feed.pass_until((self.key_begin, self.end), lambda text: None)
        return marker == self.key_begin


def _unquoted(name: str) -> str:
    return name.strip().strip('"')


def _as_json(text: str, schema: Mapping[str, Any] | None) -> str:
    """A value that was written without quotes: a text where the schema says so, or where it is no JSON."""
    text = text.removesuffix("\n")
    kinds = (schema or {}).get("type")
    if "string" not in ([kinds] if isinstance(kinds, str) else kinds or ()):
        try:
            return json.dumps(json.loads(text), ensure_ascii=False)
        except (ValueError, RecursionError):
            pass
    return json.dumps(text, ensure_ascii=False)
