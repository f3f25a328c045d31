"""Routing by earliest finish: a request goes to the replica that is expected to finish it first.

Loads and speeds are kept in arrays, so that a choice among a thousand replicas takes a few array operations. Ties go to
the lowest index.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from math import inf, nan
from statistics import fmean

import numpy as np
import numpy.typing as npt

from shoal.arrays import F64
from shoal.core.speed.routing import OUTPUT_TOKENS, ReplicaLoad, ReplicaSpeed

_ALIKE = 1.25
"""Replicas whose speeds differ by a smaller factor count as equally fast: measured speeds of equal machines differed by
17 %, which would scatter requests that arrive together (docs/log.md, routing)."""
_TYPICAL_ROWS = 8
"""The number of decoding sequences at which speeds are compared."""
_UNKNOWN = (nan, nan, nan)
_ANY = ReplicaSpeed.from_prompts(1.0)
"""The speed of all replicas if none is known."""

_Indices = npt.NDArray[np.intp]


class RoutingTable:
    """Loads and speeds of the replicas of a fleet, by their indices."""

    __slots__ = ("_among", "_comparable", "_decoding", "_known", "_lone_outputs_s", "_lures", "_prefill", "_speeds")

    def __init__(self) -> None:
        self._prefill: F64 = np.zeros(0)
        """Tokens that are still to be computed, for each replica."""
        self._decoding: F64 = np.zeros(0)
        """Outputs that are expected of all its sequences together."""
        self._lures: list[bool] = []
        """Whether cached tokens of a replica count when it is chosen."""
        self._speeds: F64 = np.zeros((3, 0))
        """[fields of `ReplicaSpeed`, replicas] in seconds; NaN: not known."""
        self._known: list[ReplicaSpeed | None] = []
        """The speed that was last noted for each replica."""
        self._among: _Indices | None = None
        self._comparable: Sequence[F64] = ()
        """The fields of speeds as they are compared: levelled for the replicas in `_among`, infinite for others. Valid
        until a speed changes."""
        self._lone_outputs_s: dict[int, F64] = {}
        """Seconds of so many outputs on idle replicas, by their number. Valid until a speed changes."""

    def note(self, index: int, load: ReplicaLoad) -> None:
        """Note a replica's load and speed. `index`: a known replica, or the next new one."""
        if index == len(self._lures):
            self._grow()
        self._prefill[index], self._decoding[index] = load.prefill_tokens, load.num_decoding * OUTPUT_TOKENS
        self._lures[index] = not (load.is_slow or load.is_overloaded)
        known = self._known[index]
        if load.speed is not known and load.speed != known:
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
            prompt_tokens: prompt tokens of the request. They matter only if speeds differ, or if some replicas have
                cached a part of the prompt.
            output_tokens: the most output tokens of the request.
            cached_tokens: leading prompt tokens that are cached, for replicas that have some. They do not count for a
                replica that is slow or overloaded.
        """
        if among is not self._among:
            self._among, self._comparable = among, tuple(self._compare(among))
            self._lone_outputs_s.clear()
        prompt_token_s, _, output_row_s = self._comparable
        finish_s = self._prefill + prompt_tokens
        for index, num_tokens in cached_tokens.items():
            finish_s[index] -= num_tokens if self._lures[index] else 0
        finish_s *= prompt_token_s
        finish_s += self._decoding * output_row_s
        finish_s += self._outputs_s(min(output_tokens, OUTPUT_TOKENS))
        return int(finish_s.argmin())

    def _outputs_s(self, count: int) -> F64:
        """Seconds of `count` outputs, at most OUTPUT_TOKENS, on idle replicas."""
        if count not in self._lone_outputs_s:
            _, output_step_s, output_row_s = self._comparable
            self._lone_outputs_s[count] = count * (output_step_s + output_row_s)
        return self._lone_outputs_s[count]

    def _grow(self) -> None:
        self._prefill, self._decoding = np.append(self._prefill, 0), np.append(self._decoding, 0)
        self._speeds = np.append(self._speeds, np.full((3, 1), nan), axis=1)
        self._lures.append(False)
        self._known.append(None)
        self._among = None

    def _compare(self, among: _Indices) -> F64:
        """Speeds to compare. An unknown replica counts as fast as the fastest known one, so that it is tried."""
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


def _levelled(speeds: F64) -> F64:
    """Replace the speeds of similar replicas, grouped from the fastest on, by their mean."""
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


def _typical_s(speeds: F64) -> F64:
    """Seconds of a prompt token plus an output token of a typical batch."""
    return speeds[0] + speeds[1] + speeds[2] * _TYPICAL_ROWS
