"""Stories of replicas and requests as plain data."""

from __future__ import annotations

import time
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from shoal.core.story import NO_REPLICA, StoryEntry

MAX_NAME_CHARS = 256
"""Of what a story is asked about: a client's name for its request, with what the server has added."""


def story_dicts(entries: Iterable[StoryEntry], *, now_s: float, model: str) -> list[dict[str, Any]]:
    """As `/status/story` tells them.

    Args:
        entries: the oldest first.
        now_s: on their clock.
        model: which they are about.
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
