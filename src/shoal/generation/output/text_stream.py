"""The visible text of token ids: incremental detokenizing and stop strings.

A stop string may begin in one token and end in another, so text is held back while it may become one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from shoal.generation.seams import StreamDetokenizer


def failure_table(pattern: str) -> tuple[int, ...]:
    """For each length of a matched prefix, the length of its longest proper prefix that is also its suffix.

    Source: Knuth, Morris and Pratt, "Fast pattern matching in strings", SIAM J. Comput. 6(2), 1977.
    """
    table = [0, 0]
    length = 0
    for character in pattern[1:]:
        while length and character != pattern[length]:
            length = table[length]
        length += character == pattern[length]
        table.append(length)
    return tuple(table)


class StopString(NamedTuple):
    """A stop string, prepared once for all sequences that search for it."""

    pattern: str
    """The string, at least one character."""
    table: tuple[int, ...]
    """Its failure table, see `failure_table`."""


def prepare_stops(stops: Sequence[str]) -> tuple[StopString, ...]:
    """Prepare the stop strings of a call."""
    return tuple(StopString(stop, failure_table(stop)) for stop in stops)


class _Matcher:
    """Matches one stop string against the end of the text, in constant amortized time per character."""

    __slots__ = ("length", "pattern", "table")

    def __init__(self, stop: StopString) -> None:
        self.pattern, self.table = stop
        self.length = 0

    def push(self, character: str) -> bool:
        """Take one character. Returns whether the pattern is complete."""
        while self.length and character != self.pattern[self.length]:
            self.length = self.table[self.length]
        self.length += character == self.pattern[self.length]
        return self.length == len(self.pattern)


class StopFinder:
    """Passes text through up to the stop string that is complete first (of several at once, the longest).

    The rule depends only on characters, so the result does not depend on how the text is divided into pieces.
    """

    def __init__(self, stops: Sequence[StopString]) -> None:
        self._matchers = [_Matcher(stop) for stop in stops]
        self._held = ""
        self.found: str | None = None
        """The stop string that ended the text; None: none did yet."""

    def push(self, text: str) -> str:
        """Take more text. Returns what can be shown now. Must not be called once `found` is set."""
        if not self._matchers:
            return text
        for index, character in enumerate(text):
            complete = [matcher.pattern for matcher in self._matchers if matcher.push(character)]
            if complete:
                self.found = max(complete, key=len)
                shown = self._held + text[: index + 1]
                self._held = ""
                return shown[: len(shown) - len(self.found)]
        return self._hold(self._held + text)

    def flush(self) -> str:
        """Return the text that was held back, at the end of the text."""
        held, self._held = self._held, ""
        return held

    def _hold(self, text: str) -> str:
        num_shown = len(text) - max(matcher.length for matcher in self._matchers)
        self._held = text[num_shown:]
        return text[:num_shown]


class TextStream:
    """The visible text of one sequence."""

    def __init__(self, detokenizer: StreamDetokenizer, stops: Sequence[StopString]) -> None:
        self._detokenizer = detokenizer
        self._finder = StopFinder(stops)
        self.num_decoded_chars = 0
        """Characters decoded so far, shown or held back."""

    @property
    def stopped(self) -> bool:
        """Whether a stop string was found; nothing more may be pushed then."""
        return self._finder.found is not None

    @property
    def stop_text(self) -> str | None:
        """The stop string that was found; None: none was."""
        return self._finder.found

    def push(self, token_id: int, *, may_stop: bool = True) -> str:
        """Take one token. Returns the text that can be shown now. `may_stop`: whether stop strings may end in its
        text."""
        text = self._detokenizer.push(token_id)
        if may_stop:
            return self._find(text)
        self.num_decoded_chars += len(text)
        return text

    def flush(self) -> str:
        """Return the rest of the text, at the end of the tokens."""
        if self.stopped:
            return ""
        shown = self._find(self._detokenizer.flush())
        return shown if self.stopped else shown + self._finder.flush()

    def _find(self, text: str) -> str:
        self.num_decoded_chars += len(text)
        return self._finder.push(text)
