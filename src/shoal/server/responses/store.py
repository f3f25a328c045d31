"""Answers that later requests may continue: a bounded number of conversations in memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from shoal.model.text.chat_template import num_chars_within

MAX_RESPONSES = 1024
MAX_CHARS = 64 << 20
"""Characters of all conversations together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredResponse:
    """One answer and the conversation that ends with it."""

    response: Mapping[str, Any]
    messages: Sequence[Mapping[str, Any]]
    """Messages of a chat completion, without instructions."""


class ResponseStore:
    """Removes the least recently used answers first. All are lost when the server ends."""

    def __init__(self, max_responses: int = MAX_RESPONSES, max_chars: int = MAX_CHARS) -> None:
        self._max_responses = max_responses
        self._max_chars = max_chars
        self._stored: OrderedDict[str, tuple[StoredResponse, int]] = OrderedDict()
        self._num_chars = 0

    def get(self, response_id: str) -> StoredResponse | None:
        """An answer by its id; None: it does not exist, or no longer."""
        entry = self._stored.get(response_id)
        if entry is None:
            return None
        self._stored.move_to_end(response_id)
        return entry[0]

    def put(self, response_id: str, stored: StoredResponse) -> None:
        """Store an answer, if there is room."""
        num_chars = num_chars_within((stored.response, stored.messages))
        self._stored[response_id] = stored, num_chars
        self._num_chars += num_chars
        while len(self._stored) > self._max_responses or self._num_chars > self._max_chars:
            self.delete(next(iter(self._stored)))

    def delete(self, response_id: str) -> bool:
        """Delete an answer. Returns whether it existed."""
        entry = self._stored.pop(response_id, None)
        if entry is not None:
            self._num_chars -= entry[1]
        return entry is not None
