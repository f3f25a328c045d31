"""Speeds of workers and links for one model: measured by `shoal profile`, or estimated from a machine's rates.

A worker's time for a step is a sum over its blocks. A block's time has a part that every shard of it takes in full
(starting kernels, norms) and a part that is proportional to the shard's share of the matrices. Both depend on the rows
of the step, separately for prompt rows and output rows: few rows are limited by memory and many by arithmetic, and rows
of one sequence read their context together.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from math import sqrt

import numpy as np


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """Seconds as a function of rows: linear between points, and extrapolated along the last two, but never
    downwards."""

    rows: tuple[int, ...]
    """Rows of the points, ascending, at least one."""
    seconds: tuple[float, ...]
    """Seconds at each of `rows`."""

    def at(self, rows: float) -> float:
        """Seconds at any number of rows; those of the first point below it, and 0 for 0 rows."""
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
        """The curve times ratios, which are interpolated linearly and constant outside their points."""
        factors = np.interp(self.rows, ratios.rows, ratios.seconds).tolist()
        return Curve(rows=self.rows, seconds=tuple(one * by for one, by in zip(self.seconds, factors, strict=True)))


ZERO = Curve(rows=(1,), seconds=(0.0,))


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockSpeed:
    """The speed of one worker with a part of a model: attention matrices of a layer, its MLP, or the head.

    A shard with a share takes `fixed_s + fixed_row_s * rows + share * curve.at(rows)`.
    """

    decode: Curve
    """The part that is proportional to the share, for output rows."""
    prefill: Curve
    """The part that is proportional to the share, for prompt rows."""
    fixed_s: float = 0.0
    """Seconds of every step, whatever the share and the rows."""
    fixed_row_s: float = 0.0
    """Seconds of every row, whatever the share."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertRouting:
    """How many experts a layer has, and how many of them compute a row. The planner assumes a random choice."""

    num_experts: int
    num_chosen: int

    def deviation(self, rows: float) -> float:
        """The deviation d of the work of a step with so many rows: the part of the work that falls to a share f of the
        experts has the standard deviation d * sqrt(f * (1 - f)). Each expert is needed by the step, or not."""
        if rows <= 0.0:
            return 0.0
        needed = 1.0 - (1.0 - self.num_chosen / self.num_experts) ** rows
        return sqrt((1.0 - needed) / (needed * self.num_experts))


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipSpeed:
    """Seconds of one worker for a clip of sound, in a model with an encoder."""

    encoder_s: float
    """Seconds of the encoder, in the first stage."""
    layer_s: float
    """Seconds of every layer, for keys and values of the encoder's outputs."""
    num_rows: int
    """Rows of the encoder's outputs, which go from stage to stage."""

    def scaled(self, factor: float) -> ClipSpeed:
        """The speed of a worker that takes `factor` times as long."""
        return replace(self, encoder_s=factor * self.encoder_s, layer_s=factor * self.layer_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSpeed:
    """The speed of one worker with one model at one precision."""

    attention: BlockSpeed
    """One layer's attention: q, k, v, o and everything that a shard without KV heads does not compute."""
    mlp: BlockSpeed
    """One layer's MLP: gate, up, down and norms."""
    head: BlockSpeed
    """The head, by sampled rows; only its decode curve is used."""
    decode_context: Curve
    """Seconds of attention in one layer, all heads, for so many output rows and one token of context of each. Not
    proportional to the rows: the keys and values of many do not stay in a cache."""
    prefill_context_s: float
    """Seconds of attention in one layer, all heads, for a prompt row and one token of its context."""
    step_s: float
    """Fixed seconds of every step: taking it in, looking tokens up."""
    experts: ExpertRouting | None = None
    """The experts of the model's layers; None: they have none."""
    clip: ClipSpeed | None = None
    """Seconds of the clip that comes with every request; None: the model has no encoder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkSpeed:
    """The speed of a link from one worker to another, or of a sum over a group of workers."""

    latency_s: float
    bytes_per_s: float

    def seconds(self, num_bytes: float) -> float:
        """Seconds for one message, or one all-reduce, of so many bytes."""
        return self.latency_s + num_bytes / self.bytes_per_s


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerClass:
    """Equal workers: the same speeds, memory and links."""

    name: str
    count: int
    threads: int
    memory_bytes: int
    """Memory for weights and KV of one worker."""
    alone: Mapping[str, WorkerSpeed]
    """Speeds by precision while the machine's other workers are idle."""
    busy: Mapping[str, WorkerSpeed]
    """Speeds by precision while all workers compute."""
    is_rough: bool = False
    """Whether the speeds are rough, from a quick look for a first decision."""
    others_share: float = 0.0
    """The share of the measured cores' time that other processes took meanwhile, 0 to 1."""
    takes_shards: bool = True
    """Whether a worker can hold a shard of a stage; devices take whole stages."""

    def changed(self, change: Callable[[WorkerSpeed], WorkerSpeed]) -> WorkerClass:
        """The class with changed speeds, alone and busy, at each precision."""
        alone, busy = ({key: change(speed) for key, speed in speeds.items()} for speeds in (self.alone, self.busy))
        return replace(self, alone=alone, busy=busy)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """The workers that a plan may use."""

    classes: tuple[WorkerClass, ...]
    links: tuple[tuple[LinkSpeed, ...], ...]
    """[from class][to class]: links for hidden states between stages; the diagonal is for two workers of one class."""
    sums: tuple[tuple[LinkSpeed, ...], ...]
    """[class][class]: all-reduce between two ranks; a group is as fast as its slowest pair."""
    turn: Curve = field(default=ZERO)
    """Seconds of the head for a step with so many sequences: scheduling and taking results in."""
    message_s: float = 0.0
    """Seconds for sending a step to a child process and its result back; none if the only worker is the head itself."""
    is_for_copies: bool = False
    """Whether its memory is counted for workers that each hold the whole model and share its weights. No other plan may
    use it."""

    @property
    def counts(self) -> tuple[int, ...]:
        """Workers of each class."""
        return tuple(one.count for one in self.classes)

    @property
    def whole_only(self) -> tuple[int, ...]:
        """Indices of the classes whose workers take no shards."""
        return tuple(index for index, one in enumerate(self.classes) if not one.takes_shards)

    def routed(self, experts: ExpertRouting | None) -> Fleet:
        """The fleet for a model with such experts, without which speeds were measured or estimated."""
        return self.changed(lambda speed: replace(speed, experts=experts))

    def changed(self, change: Callable[[WorkerSpeed], WorkerSpeed]) -> Fleet:
        """The fleet with changed speeds of each class, alone and busy, at each precision."""
        return replace(self, classes=tuple(one.changed(change) for one in self.classes))
