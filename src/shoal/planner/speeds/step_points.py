"""Timed steps of parts of a model: what `planner.speeds.fit` makes speeds from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class StepKind(NamedTuple):
    """What a step computes. Its rows are output rows or prompt rows, never both."""

    output_rows: int = 0
    prompt_rows: int = 0
    context: float = 0.0
    """tokens that each row looks back on, itself included, on average"""
    is_sampled: bool = False
    """whether the logits of its rows are computed"""
    num_clips: int = 0
    """that are encoded"""

    @property
    def rows(self) -> int:
        return self.output_rows + self.prompt_rows


@dataclass(frozen=True, slots=True, kw_only=True)
class PartPoints:
    """One part of a model, and seconds of steps through it."""

    num_layers: int
    attention: float = 1.0
    """share of the KV heads"""
    mlp: float = 1.0
    """share of the columns"""
    vocabulary: float = 0.0
    """share of the head; 0: the part is without"""
    seconds: dict[StepKind, float]

    def at_least_context(self, *, prompt: bool, sampled: bool = False) -> dict[int, tuple[StepKind, float]]:
        """By number of rows: the step with the least context of those that match."""
        found: dict[int, tuple[StepKind, float]] = {}
        for kind, seconds in self.seconds.items():
            matches = bool(kind.prompt_rows) == prompt and kind.is_sampled == sampled
            if matches and (kind.rows not in found or kind.context < found[kind.rows][0].context):
                found[kind.rows] = kind, seconds
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerWeights:
    """How a layer's weights are divided over its matrices."""

    mlp: float
    """part in gate, up and down, 0 to 1"""
    behind_attention: float
    """part in o, gate, up and down: those of a model's last layer meet sampled rows only"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelPoints:
    """All that was timed of one model on one worker.

    A *long* part of the model (whole layers and the head) with few rows, as in decoding, where memory counts and caches
    must not flatter; a *short* part (whole layers, no head) with many rows, where arithmetic counts; and two shards of
    the long part: *half* of everything, and the same columns without KV heads.
    """

    long: PartPoints
    """output rows, sampled and not; few prompt rows"""
    short: PartPoints
    """many prompt rows; output rows and prompt rows at two contexts each"""
    half: PartPoints | None = None
    """some of the steps of `long`"""
    columns: PartPoints | None = None
    """the same"""
    clip_s: float | None = None
    """what a clip adds to a step through the model's first layer; None: there is no encoder"""
    step_s: float | None = 0.0
    """of a step without any layers; None: what the long and the short part have in common tells"""
