"""Placement of hot experts: which shard of a stage holds which experts, given how many rows each expert gets.

Every layer waits for the shard with the most rows relative to its speed. Experts are exchanged one for one, so every
shard holds as many of a layer as before. If there is room for more, experts of the slowest shard are copied, and the
shards that hold a copied expert take turns at its rows. Every expert stays on at least one shard.

Shapes: E experts of a layer, n shards, O experts of the slowest shard, X others (experts or shards), T turns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from shoal.arrays import F64, I64
from shoal.protocol.stage_config import ExpertSpan, LayerExperts

NUM_TURNS = 8
"""Turns among which the rows of a copied expert are divided; eighths suffice for loads measured to a few percent."""
_LEAST_GAIN = 1e-3
"""The least share of a layer's time that an exchange must save, so that noise causes no moves."""
_LEAST_COPY_GAIN = 0.02
"""The least share of a layer's time that a copy must save, since it takes memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertPlacement:
    """The experts of every shard of a stage."""

    experts: tuple[tuple[LayerExperts, ...], ...]
    """[shard][layer of the stage]: the experts."""
    slowest: tuple[float, ...]
    """For each layer, the share of its rows that the slowest shard computes, over that shard's speed."""
    num_copies: int
    """Copies of experts in all layers together."""


def place_experts(
    heat: Sequence[F64], held: Sequence[Sequence[LayerExperts]], speeds: Sequence[float], room: Sequence[int]
) -> ExpertPlacement:
    """Move hot experts to fast shards.

    Args:
        heat: [layer][E] the share of a layer's rows that goes to each expert; sums to 1, or empty without experts.
        held: [shard][layer] the present experts, each on one shard.
        speeds: the speed of each shard, in any unit.
        room: the number of further experts for which each shard has memory, in all layers together.
    """
    layers = [
        _Layer.of(rows, [experts[index] for experts in held], np.array(speeds)) for index, rows in enumerate(heat)
    ]
    for layer in layers:
        while layer.exchange():
            pass
    num_copies = _copy(layers, list(room))
    return ExpertPlacement(
        experts=tuple(tuple(layer.experts_of(rank) for layer in layers) for rank in range(len(speeds))),
        slowest=tuple(float(layer.times.max()) for layer in layers),
        num_copies=num_copies,
    )


def slowest_shares(
    heat: Sequence[F64], held: Sequence[Sequence[LayerExperts]], speeds: Sequence[float]
) -> tuple[float, ...]:
    """For each layer, the share of its rows that the slowest shard computes, over that shard's speed.

    Args: as for `place_experts`; experts may be on several shards that take turns.
    """
    return tuple(
        max(row_share(rows, experts[layer]) / speed for experts, speed in zip(held, speeds, strict=True))
        for layer, rows in enumerate(heat)
    )


def row_share(heat: F64, experts: LayerExperts) -> float:
    """The share of a layer's rows computed by a shard with these experts; 0 if the layer has no experts."""
    if not heat.size:
        return 0.0
    return sum(float(heat[s.first : s.last].sum()) * s.turns.bit_count() / s.num_turns for s in experts)


@dataclass(slots=True, kw_only=True)
class _Copy:
    """An expert on two shards."""

    expert: int
    other: int
    """The shard that holds the copy."""
    eighths: int
    """Turns of that shard."""


@dataclass(slots=True, kw_only=True)
class _Layer:
    """The experts of one layer while they are being placed. Mutable."""

    heat: F64
    owner: I64
    """[E]: the shard of each expert."""
    speeds: F64
    loads: F64
    """[n]: the share of the rows of each shard."""
    copies: list[_Copy] = field(default_factory=list[_Copy])

    @classmethod
    def of(cls, heat: F64, held: Sequence[LayerExperts], speeds: F64) -> _Layer:
        owner = np.zeros(len(heat), np.int64)
        for rank, experts in enumerate(held if len(heat) else ()):
            for span in experts:
                owner[span.first : span.last] = rank
        loads = np.bincount(owner, heat, len(speeds)) if len(heat) else np.zeros(len(speeds))
        return cls(heat=heat, owner=owner, speeds=speeds, loads=loads.astype(np.float64))

    @property
    def times(self) -> F64:
        """[n]: the relative time of each shard."""
        return self.loads / self.speeds

    def exchange(self) -> bool:
        """Make the best exchange of an expert of the slowest shard for a colder one. Returns False if none pays."""
        slow = int(self.times.argmax())
        own, others = np.flatnonzero(self.owner == slow), np.flatnonzero(self.owner != slow)
        if not own.size or not others.size:
            return False
        fewer_OX = self.heat[own][:, np.newaxis] - self.heat[others][np.newaxis, :]
        other = self.owner[others]
        own_OX = (self.loads[slow] - fewer_OX) / self.speeds[slow]
        others_OX = (self.loads[other] + fewer_OX) / self.speeds[other]
        slower_OX = np.maximum(own_OX, others_OX)
        one, two = np.unravel_index(int(slower_OX.argmin()), slower_OX.shape)
        if slower_OX[one, two] > self.times[slow] * (1.0 - _LEAST_GAIN):
            return False
        hot, cold = int(own[one]), int(others[two])
        self.loads[slow] -= fewer_OX[one, two]
        self.loads[self.owner[cold]] += fewer_OX[one, two]
        self.owner[hot], self.owner[cold] = self.owner[cold], slow
        return True

    def best_copy(self, may_hold: Sequence[bool]) -> tuple[float, _Copy] | None:
        """The copy of an expert of the slowest shard that saves the most time, and how much.

        Args:
            may_hold: whether each shard has room for one more.
        """
        times, copied = self.times, [one.expert for one in self.copies]
        slow = int(times.argmax())
        own = np.setdiff1d(np.flatnonzero(self.owner == slow), copied)
        others = np.setdiff1d(np.flatnonzero(np.array(may_hold, np.bool_)), [slow])
        if not own.size or not others.size:
            return None
        eighths = np.arange(1, NUM_TURNS)
        moved_OT = self.heat[own][:, np.newaxis] * eighths / NUM_TURNS
        rest_X = np.array([np.delete(times, [slow, other]).max(initial=0.0) for other in others])
        own_OT = (self.loads[slow] - moved_OT) / self.speeds[slow]
        others_XOT = (self.loads[others][:, np.newaxis, np.newaxis] + moved_OT) / self.speeds[others][
            :, np.newaxis, np.newaxis
        ]
        after_XOT = np.maximum(np.maximum(own_OT, others_XOT), rest_X[:, np.newaxis, np.newaxis])
        other, expert, turn = np.unravel_index(int(after_XOT.argmin()), after_XOT.shape)
        saved = float(times[slow] - after_XOT[other, expert, turn])
        if saved <= _LEAST_COPY_GAIN * times[slow]:
            return None
        return saved, _Copy(expert=int(own[expert]), other=int(others[other]), eighths=int(eighths[turn]))

    def copy(self, one: _Copy) -> None:
        """Make a copy."""
        moved = self.heat[one.expert] * one.eighths / NUM_TURNS
        self.loads[self.owner[one.expert]] -= moved
        self.loads[one.other] += moved
        self.copies.append(one)

    def experts_of(self, rank: int) -> LayerExperts:
        """The experts of a shard as spans, with neighbors joined."""
        spans = {int(expert): ExpertSpan(int(expert), int(expert) + 1) for expert in np.flatnonzero(self.owner == rank)}
        every = (1 << NUM_TURNS) - 1
        for one in self.copies:
            turns = (1 << one.eighths) - 1
            if rank == self.owner[one.expert]:
                spans[one.expert] = ExpertSpan(one.expert, one.expert + 1, NUM_TURNS, every ^ turns)
            elif rank == one.other:
                spans[one.expert] = ExpertSpan(one.expert, one.expert + 1, NUM_TURNS, turns)
        joined: list[ExpertSpan] = []
        for _, span in sorted(spans.items()):
            if joined and joined[-1][1:] == (span.first, span.num_turns, span.turns):
                joined[-1] = joined[-1]._replace(last=span.last)
            else:
                joined.append(span)
        return tuple(joined)


def _copy(layers: Sequence[_Layer], room: list[int]) -> int:
    """Copy experts while that saves time and there is room, starting where it saves most. Returns the number of
    copies."""

    def best(layer: _Layer) -> tuple[float, _Copy] | None:
        return layer.best_copy([free > 0 for free in room]) if layer.heat.size else None

    found = {index: copy for index, layer in enumerate(layers) if (copy := best(layer)) is not None}
    count = 0
    while found:
        index = max(found, key=lambda index: found[index][0])
        layer, (_, copy) = layers[index], found.pop(index)
        if room[copy.other] > 0:
            layer.copy(copy)
            room[copy.other] -= 1
            count += 1
        if (following := best(layer)) is not None:
            found[index] = following
    return count
