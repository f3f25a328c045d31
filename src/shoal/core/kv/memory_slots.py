"""Slots for an encoder's outputs: one for each clip, shared by all requests over the clip.

A clip gets several requests: for its language, for its text, and again at a higher temperature if the text is poor.
Some slots therefore keep their contents after their last holder, until they are needed or there are too many.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

MAX_KEPT = 4
"""The most slots that keep a clip without a holder; their memory cannot be released."""


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
        """Kept clips without holders, least recently used first."""

    @property
    def slots(self) -> dict[bytes, int]:
        """The slot of each clip, held or kept."""
        return {key: clip.slot for key, clip in self._clips.items()}

    @property
    def num_free(self) -> int:
        """Empty slots."""
        return len(self._free)

    def num_holders(self, key: bytes) -> int:
        """The number of sequences that hold a clip."""
        return self._clips[key].num_holders if key in self._clips else 0

    def has_room(self, key: bytes) -> bool:
        """Whether `take` finds a slot for the clip."""
        return key in self._clips or bool(self._free or self._kept)

    def take(self, key: bytes) -> int:
        """Return the clip's slot to one more holder. There must be room."""
        clip = self._clips.get(key)
        if clip is None:
            clip = self._clips[key] = _Clip(self._free.pop() if self._free else self._evict())
        self._kept.pop(key, None)
        clip.num_holders += 1
        return clip.slot

    def is_encoded(self, key: bytes) -> bool:
        """Whether a slot has the encoder's outputs for the clip, or will once the steps sent so far are computed."""
        return key in self._clips and self._clips[key].is_encoded

    def encode_once(self, key: bytes) -> bool:
        """Return whether the clip must still be encoded, and count it as encoded from now on."""
        clip = self._clips[key]
        was_encoded, clip.is_encoded = clip.is_encoded, True
        return not was_encoded

    def give_back(self, key: bytes) -> None:
        """Drop one holder of a clip."""
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
        """Free and return the slot of the least recently used clip without holders."""
        self._forget(next(iter(self._kept)))
        return self._free.pop()
