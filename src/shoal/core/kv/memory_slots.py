"""Who holds which slot for what an encoder gave: a slot a clip, which all requests over the clip share.

A clip is asked about more than once: for its language, for its text, and again at a higher temperature where the text
is poor. Some slots that nobody holds therefore keep what they have, until they are needed or are too many.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

MAX_KEPT = 4
"""Slots that nobody holds and that keep a clip: what is kept is memory that is not given back."""


@dataclass(slots=True)
class _Clip:
    slot: int
    num_holders: int = 0
    is_encoded: bool = False


class MemorySlots:
    """The memory slots of one replica. Every stage uses the same numbers for its own memory."""

    __slots__ = ("_clips", "_free", "_kept", "num_slots")

    def __init__(self, num_slots: int) -> None:
        self.num_slots = num_slots
        self._free = list(range(num_slots - 1, -1, -1))
        self._clips: dict[bytes, _Clip] = {}
        self._kept: OrderedDict[bytes, None] = OrderedDict()
        """Clips that nobody holds, least recently used first."""

    @property
    def slots(self) -> dict[bytes, int]:
        """The slot of each clip, held or kept."""
        return {key: clip.slot for key, clip in self._clips.items()}

    @property
    def num_free(self) -> int:
        """Slots with nothing in them."""
        return len(self._free)

    def num_holders(self, key: bytes) -> int:
        """Sequences that hold a clip."""
        return self._clips[key].num_holders if key in self._clips else 0

    def has_room(self, key: bytes) -> bool:
        """Whether `take` finds a slot for the clip."""
        return key in self._clips or bool(self._free or self._kept)

    def take(self, key: bytes) -> int:
        """The clip's slot, for one sequence more. There must be room."""
        clip = self._clips.get(key)
        if clip is None:
            clip = self._clips[key] = _Clip(self._free.pop() if self._free else self._evict())
        self._kept.pop(key, None)
        clip.num_holders += 1
        return clip.slot

    def is_encoded(self, key: bytes) -> bool:
        """Whether a slot holds what the encoder gave for the clip, or will when the steps sent so far are done."""
        return key in self._clips and self._clips[key].is_encoded

    def encode_once(self, key: bytes) -> bool:
        """Whether the clip is still to be encoded; the next time it counts as encoded."""
        clip = self._clips[key]
        was_encoded, clip.is_encoded = clip.is_encoded, True
        return not was_encoded

    def give_back(self, key: bytes) -> None:
        """A sequence needs the clip no more."""
        clip = self._clips[key]
        clip.num_holders -= 1
        assert clip.num_holders >= 0, "a clip was given back before"
        if clip.num_holders:
            return
        self._kept[key] = None
        if not clip.is_encoded:
            self._forget(key)
        elif len(self._kept) > MAX_KEPT:
            self._forget(next(iter(self._kept)))

    def _forget(self, key: bytes) -> None:
        del self._kept[key]
        self._free.append(self._clips.pop(key).slot)

    def _evict(self) -> int:
        """The slot of the clip that has not been used for longest, and that nobody holds."""
        self._forget(next(iter(self._kept)))
        return self._free.pop()
