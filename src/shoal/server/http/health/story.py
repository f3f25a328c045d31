"""The latest events of replicas and requests, as plain data."""

from __future__ import annotations

import time
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from shoal.core.story import NO_REPLICA, StoryEntry

MAX_NAME_CHARS = 256
"""Longest name that a story is asked for: a client's id for its request, with what the server has added."""


def story_dicts(entries: Iterable[StoryEntry], *, now_s: float, model: str) -> list[dict[str, Any]]:
    """Events in the form of `/status/story`.

    Args:
        entries: the oldest first.
        now_s: the present time on their clock.
        model: that they belong to.
    """
    offset_s = time.time() - now_s
    return [
        {
            "time": datetime.fromtimestamp(entry.time_s + offset_s, UTC).isoformat(timespec="milliseconds"),
            "model": model,
            "replica": None if entry.replica == NO_REPLICA else entry.replica,
            "event": entry.event,
            "effects": entry.effects,
            "requests": entry.request_ids,
        }
        for entry in entries
    ]
