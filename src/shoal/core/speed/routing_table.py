"""Which replica a request goes to: the one that is expected to have finished it first.

What each replica has to do stands in columns, which change with the replicas, so that a fleet of a thousand is looked
at in some operations on arrays. Ties go to the lowest index.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from math import inf, nan
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from shoal.core.speed.routing import OUTPUT_TOKENS, ReplicaLoad, ReplicaSpeed

_ALIKE = 1.25
"""Replicas whose speeds differ by less count as equally fast: measured speeds of equal machines differed by 17 %, and
to believe it would scatter requests that come together (docs/log.md, routing)."""
_TYPICAL_ROWS = 8
"""Sequences that decode together where speeds are compared as such."""
_UNKNOWN = (nan, nan, nan)
_ANY = ReplicaSpeed.from_prompts(1.0)
"""Of all replicas where that of none is known."""

_Indices = NDArray[np.intp]
_Seconds = NDArray[np.float64]


class RoutingTable:
    """Loads and speeds of the replicas of a fleet, by their indices."""

    __slots__ = ("_among", "_comparable", "_decoding", "_known", "_lures", "_prefill", "_speeds")

    def __init__(self) -> None:
        self._prefill = np.zeros(0, np.int64)
        self._decoding = np.zeros(0, np.int64)
        self._lures: list[bool] = []
        """whether what a replica has cached draws requests to it"""
        self._speeds: _Seconds = np.zeros((3, 0))
        """[seconds of `ReplicaSpeed`, replicas]; not a number: not known"""
        self._known: list[ReplicaSpeed | None] = []
        """what was noted of each replica"""
        self._among: _Indices | None = None
        self._comparable: _Seconds = np.zeros((3, 0))
        """of the replicas `_among`, an infinite step for all others: valid until a speed changes"""

    def note(self, index: int, load: ReplicaLoad) -> None:
        """A replica has another load or speed. `index`: one that was there before, or the next one."""
        if index == len(self._lures):
            self._grow()
        self._prefill[index], self._decoding[index] = load.prefill_tokens, load.num_decoding
        self._lures[index] = not (load.is_slow or load.is_overloaded)
        if load.speed != self._known[index]:
            self._known[index] = load.speed
            self._speeds[:, index] = _UNKNOWN if load.speed is None else _seconds(load.speed)
            self._among = None

    def choose(
        self,
        among: _Indices,
        *,
        prompt_tokens: int,
        output_tokens: int,
        cached_tokens: Mapping[int, int],
    ) -> int:
        """The replica with the earliest expected finish.

        Args:
            among: replicas that may take the request, ascending, at least one. The same array should be given as long
                as it stays the same.
            prompt_tokens: of the request to be placed. Its own work matters only between replicas of unequal speed, or
                of which some have cached a part of it.
            output_tokens: that it asks for at most.
            cached_tokens: for replicas that have some, the leading prompt tokens that need not be computed there. They
                draw a request to a replica that is well, and to no other.
        """
        if among is not self._among:
            self._among, self._comparable = among, self._compare(among)
        prompt_token_s, output_step_s, output_row_s = self._comparable
        prefill = self._prefill + prompt_tokens
        for index, num_tokens in cached_tokens.items():
            prefill[index] -= num_tokens if self._lures[index] else 0
        finish_s = prefill * prompt_token_s
        finish_s += self._decoding * OUTPUT_TOKENS * output_row_s
        finish_s += min(output_tokens, OUTPUT_TOKENS) * (output_step_s + output_row_s)
        return int(finish_s.argmin())

    def _grow(self) -> None:
        self._prefill, self._decoding = np.append(self._prefill, 0), np.append(self._decoding, 0)
        self._speeds = np.append(self._speeds, np.full((3, 1), nan), axis=1)
        self._lures.append(False)
        self._known.append(None)
        self._among = None

    def _compare(self, among: _Indices) -> _Seconds:
        """What is not known is taken to be as fast as the fastest that is, so that it is tried and then known."""
        speeds = self._speeds[:, among]
        is_known = ~np.isnan(speeds[0])
        if not is_known.all():
            known = speeds[:, is_known]
            fastest = known[:, _typical_s(known).argmin()] if known.size else np.array(_seconds(_ANY))
            speeds[:, ~is_known] = fastest[:, np.newaxis]
        comparable = np.zeros_like(self._speeds)
        comparable[1] = inf
        comparable[:, among] = _levelled(speeds)
        return comparable


def _seconds(speed: ReplicaSpeed) -> tuple[float, float, float]:
    return speed.prompt_token_s, speed.output_step_s, speed.output_row_s


def _levelled(speeds: _Seconds) -> _Seconds:
    """Those that are alike, from the fastest on, all have their mean."""
    typical_s = _typical_s(speeds)
    order = np.argsort(typical_s, kind="stable")
    ascending_s = typical_s[order].tolist()
    levelled, first = speeds.copy(), 0
    while first < len(order):
        end = bisect_right(ascending_s, _ALIKE * ascending_s[first])
        alike = order[first:end]
        if len(alike) > 1:
            levelled[:, alike] = [[fmean(row)] for row in speeds[:, alike].tolist()]
        first = end
    return levelled


def _typical_s(speeds: _Seconds) -> _Seconds:
    """Seconds of a prompt token and of an output token."""
    return speeds[0] + speeds[1] + speeds[2] * _TYPICAL_ROWS
