"""Calls with an element for each parameter: Qwen3-Coder, GLM 4.5 and later, MiniMax M2."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from shoal.model.text.answer.answer import Answer, Schemas
from shoal.model.text.answer.feed import EndOfText, Feed, Reading


@dataclass(frozen=True, slots=True, kw_only=True)
class ElementCalls:
    """The markers of a format. Each ends what stands before it."""

    begin: str
    name_begin: str = ""
    """Marker before the name, after `begin`."""
    name_end: str
    """Marker after the name; it may be the marker before the first parameter."""
    key_begin: str
    key_end: str
    """Marker after the name of a parameter."""
    value_begin: str = ""
    """Marker before a value, after `key_end`."""
    value_end: str
    end: str
    around: tuple[str, ...] = ()
    """Markers around several calls, which are ignored."""

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
        """Whether another parameter follows; if not, the marker that ends the call is taken."""
        marker = yield from feed.pass_until((self.key_begin, self.end), lambda text: None)
        return marker == self.key_begin


def _unquoted(name: str) -> str:
    return name.strip().strip('"')


def _as_json(text: str, schema: Mapping[str, Any] | None) -> str:
    """A value that was written without quotes: text if the schema says so, or if it is not JSON."""
    text = text.removesuffix("\n")
    kinds = (schema or {}).get("type")
    if "string" not in ([kinds] if isinstance(kinds, str) else kinds or ()):
        try:
            return json.dumps(json.loads(text), ensure_ascii=False)
        except (ValueError, RecursionError):
            pass
    return json.dumps(text, ensure_ascii=False)
