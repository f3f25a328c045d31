"""How fast workers and links are for one model: measured by `shoal profile`, or estimated from a machine's rates.

A worker's time for a step is a sum over its blocks; a block's time has a part that every shard of it pays in full
(starting kernels, norms) and a part that shrinks with the share of the matrices that the shard holds. Both depend on
the rows of the step, prompt rows and output rows apart: few rows wait for weights from memory and many for arithmetic,
and rows of one sequence read their context together.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from math import sqrt

import numpy as np


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """Seconds as a function of rows: linear between measured points, and on along the last two, but never down."""

    rows: tuple[int, ...]
    """ascending, at least one"""
    seconds: tuple[float, ...]
    """one for each of `rows`"""

    def at(self, rows: float) -> float:
        """Seconds at any number of rows; below the first point, those of the first point; 0 for 0 rows."""
        if rows <= 0:
            return 0.0
        if len(self.rows) == 1 or rows <= self.rows[0]:
            return self.seconds[0]
        right = min(bisect_left(self.rows, rows), len(self.rows) - 1)
        left = right - 1
        slope = (self.seconds[right] - self.seconds[left]) / (self.rows[right] - self.rows[left])
        if rows > self.rows[right]:
            return self.seconds[right] + max(0.0, slope) * (rows - self.rows[right])
        return self.seconds[left] + slope * (rows - self.rows[left])

    def times(self, ratios: Curve) -> Curve:
        """The same points, so many times as long: ratios lie on lines between theirs, and beyond stay what they are."""
        factors = np.interp(self.rows, ratios.rows, ratios.seconds).tolist()
        return Curve(rows=self.rows, seconds=tuple(one * by for one, by in zip(self.seconds, factors, strict=True)))


ZERO = Curve(rows=(1,), seconds=(0.0,))


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockSpeed:
    """One part of a model (attention matrices of a layer, its MLP, the head) on one worker.

    A shard with a share takes `fixed_s + fixed_row_s * rows + share * curve.at(rows)`.
    """

    decode: Curve
    """output rows: what shrinks with the share"""
    prefill: Curve
    """prompt rows: what shrinks with the share"""
    fixed_s: float = 0.0
    """of every step, whatever the share and the rows"""
    fixed_row_s: float = 0.0
    """of every row, whatever the share"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertRouting:
    """How many experts a layer has, and how many of them a row goes through: any, as far as the planner knows."""

    num_experts: int
    num_chosen: int

    def deviation(self, rows: float) -> float:
        """How much the part of a step's work differs that falls to some experts: its standard deviation is this times
        sqrt(f (1 - f)) for a share f of the experts. Each is needed by a step of so many rows, or not."""
        if rows <= 0.0:
            return 0.0
        needed = 1.0 - (1.0 - self.num_chosen / self.num_experts) ** rows
        return sqrt((1.0 - needed) / (needed * self.num_experts))


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipSpeed:
    """One worker with one clip of sound, of a model with an encoder."""

    encoder_s: float
    """of the first stage"""
    layer_s: float
    """of every layer, for keys and values of what the encoder gave"""
    num_rows: int
    """that the encoder gives, which go from stage to stage"""

    def scaled(self, factor: float) -> ClipSpeed:
        """Of a worker that takes so many times as long."""
        return replace(self, encoder_s=factor * self.encoder_s, layer_s=factor * self.layer_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSpeed:
    """One model at one precision on one worker."""

    attention: BlockSpeed
    """of one layer: q, k, v, o and everything that a shard without KV heads does not compute"""
    mlp: BlockSpeed
    """of one layer: gate, up, down, norms"""
    head: BlockSpeed
    """rows are sampled rows; only its decode curve is used"""
    decode_context: Curve
    """of attention in one layer, all heads: seconds for so many output rows and one token of context of each. Not
    proportional to the rows: the keys and values of many do not stay in a cache"""
    prefill_context_s: float
    """the same for a single prompt row"""
    step_s: float
    """of every step: taking it in, looking tokens up"""
    experts: ExpertRouting | None = None
    """of the model's layers; None: they have none"""
    clip: ClipSpeed | None = None
    """of the clip that comes with every request; None: the model has no encoder"""


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkSpeed:
    """Moving bytes from one worker to another, or a sum over a group of them."""

    latency_s: float
    bytes_per_s: float

    def seconds(self, num_bytes: float) -> float:
        """For one message, or one all-reduce of so many bytes."""
        return self.latency_s + num_bytes / self.bytes_per_s


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerClass:
    """Workers that are alike: the same speeds, the same memory, the same links."""

    name: str
    count: int
    threads: int
    memory_bytes: int
    """for weights and KV of one worker"""
    alone: Mapping[str, WorkerSpeed]
    """by precision: while the machine's other workers are idle"""
    busy: Mapping[str, WorkerSpeed]
    """by precision: while they all compute"""
    is_rough: bool = False
    """whether they were measured in a hurry, for a first decision"""
    others_share: float = 0.0
    """part of the time of the measured cores that other processes took meanwhile, 0 to 1"""
    takes_shards: bool = True
    """whether it can hold a shard of a stage; devices take whole stages"""

    def changed(self, change: Callable[[WorkerSpeed], WorkerSpeed]) -> WorkerClass:
        """The same with other speeds, alone and busy, at each precision."""
        alone, busy = ({key: change(speed) for key, speed in speeds.items()} for speeds in (self.alone, self.busy))
        return replace(self, alone=alone, busy=busy)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """The workers that a plan may use."""

    classes: tuple[WorkerClass, ...]
    links: tuple[tuple[LinkSpeed, ...], ...]
    """[from class][to class]: hidden states between stages; the diagonal is for two workers of one class"""
    sums: tuple[tuple[LinkSpeed, ...], ...]
    """[class][class]: an all-reduce between two ranks; a group's is its slowest pair's"""
    turn: Curve = field(default=ZERO)
    """of the head for every step of so many sequences: scheduling, taking results in"""
    message_s: float = 0.0
    """of a step on its way to a child process and its result back; not paid where the only worker is the head itself"""
    is_for_copies: bool = False
    """whether its memory is counted as that of workers that each hold the whole model and share its weights: no other
    plan may use it"""

    @property
    def counts(self) -> tuple[int, ...]:
        """Workers of each class."""
        return tuple(one.count for one in self.classes)

    @property
    def whole_only(self) -> tuple[int, ...]:
        """Indexes of the classes whose workers take no shards."""
        return tuple(index for index, one in enumerate(self.classes) if not one.takes_shards)

    def routed(self, experts: ExpertRouting | None) -> Fleet:
        """The same for a model with such experts: speeds were measured or estimated without knowing them."""
        return self.changed(lambda speed: replace(speed, experts=experts))

    def changed(self, change: Callable[[WorkerSpeed], WorkerSpeed]) -> Fleet:
        """The same with other speeds of each class, alone and busy, at each precision."""
        return replace(self, classes=tuple(one.changed(change) for one in self.classes))
