"""Timed steps of parts of a model, from which `planner.speeds.fit` makes speeds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class StepKind(NamedTuple):
    """The contents of a step. Its rows are output rows or prompt rows, never both."""

    output_rows: int = 0
    prompt_rows: int = 0
    context: float = 0.0
    """The mean number of tokens that each row attends over, including itself."""
    is_sampled: bool = False
    """Whether the logits of its rows are computed."""
    num_clips: int = 0
    """Clips that are encoded in the step."""

    @property
    def rows(self) -> int:
        return self.output_rows + self.prompt_rows


@dataclass(frozen=True, slots=True, kw_only=True)
class PartPoints:
    """A part of a model, and seconds of steps through it."""

    num_layers: int
    attention: float = 1.0
    """Share of the KV heads."""
    mlp: float = 1.0
    """Share of the columns."""
    vocabulary: float = 0.0
    """Share of the head; 0: the part has no head."""
    seconds: dict[StepKind, float]

    def at_least_context(self, *, prompt: bool, sampled: bool = False) -> dict[int, tuple[StepKind, float]]:
        """The matching steps with the least context, by number of rows."""
        found: dict[int, tuple[StepKind, float]] = {}
        for kind, seconds in self.seconds.items():
            matches = bool(kind.prompt_rows) == prompt and kind.is_sampled == sampled
            if matches and (kind.rows not in found or kind.context < found[kind.rows][0].context):
                found[kind.rows] = kind, seconds
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerWeights:
    """How a layer's weights are divided among its matrices."""

    mlp: float
    """The share of gate, up and down, 0 to 1."""
    behind_attention: float
    """The share of o, gate, up and down, 0 to 1. Those of a model's last layer compute sampled rows only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelPoints:
    """All timed steps of one model on one worker.

    They cover a *long* part of the model (whole layers and the head) with few rows, as in decoding, where memory
    matters and must not be hidden by caches; a *short* part (whole layers, no head) with many rows, where arithmetic
    matters; and two shards of the long part: *half* of everything, and the same *columns* without KV heads.
    """

    long: PartPoints
    """Output rows, sampled and not; few prompt rows."""
    short: PartPoints
    """Many prompt rows; output rows and prompt rows at two contexts each."""
    half: PartPoints | None = None
    """Some of the steps of `long` with half of everything; None: not timed."""
    columns: PartPoints | None = None
    """Some of the steps of `long` with half of the columns; None: not timed."""
    clip_s: float | None = None
    """Seconds that a clip adds to a step through the model's first layer; None: there is no encoder."""
    step_s: float | None = 0.0
    """Seconds of a step without layers; None: to be fitted from the long and the short part."""
