"""The parts of a model to time, and the steps through them. Pure functions from sizes to requests."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import product

from msgspec import structs

from shoal.core.plan.language import Block
from shoal.core.plan.shard_atoms import ShardAtoms
from shoal.planner.speeds.step_points import StepKind
from shoal.planner.split.shares import shard_parts
from shoal.protocol.profile_messages import TimeLimits, TimeStep
from shoal.protocol.stage_config import ShardPart

_SHORT_BYTES = 8 << 20
"""Weights of the short part, few because multiplying many rows takes much longer than reading weights anyway."""
_PROMPT_TOKENS, _PROMPT_OF_CLIP = 128, 32
"""Prompt rows of one sequence; few for models with clips, whose prompts are short."""
_NEAR_TOKENS, _FAR_TOKENS, _FAR_OF_CLIP = 32, 480, 256
"""Short and long contexts. With long ones, keys and values come from memory instead of a cache, as in real decoding.
Texts of clips are shorter: at most 448 tokens for Whisper."""

LONG, SHORT, HALF, COLUMNS, NOTHING, CLIP = "long", "short", "half", "columns", "nothing", "clip"
"""Names of parts, see planner.speeds.step_points. NOTHING is the smallest possible shard, to measure the fixed cost of
a step; CLIP is the encoder with one layer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How much of a model is timed, and the rows of the timed steps, one step for each number."""

    long_bytes: int
    """Most bytes of weights in the long part."""
    decode: tuple[int, ...]
    """Output rows of the long part."""
    alone_decode: tuple[int, ...]
    """Output rows that are also timed while all other workers are idle."""
    shard_decode: tuple[int, ...]
    """Output rows that are also timed on shards; empty: shards are not timed."""
    far_decode: tuple[int, ...]
    """Output rows of the short part, each at two context lengths."""
    few_prefill: tuple[int, ...]
    """Prompt rows of the long part."""
    many_prefill: tuple[int, ...]
    """Prompt rows of the short part."""
    num_rounds: int = 1
    """Number of rounds in which all steps are timed while all workers compute."""


FULL = Effort(
    long_bytes=256 << 20,  # several times the last-level cache of a server processor
    decode=(1, 2, 4, 8, 16, 32),
    alone_decode=(1, 4, 16),
    shard_decode=(1, 16),
    far_decode=(1, 16),
    few_prefill=(8, 64),
    many_prefill=(128, 256, 512),
)
QUICK = Effort(
    long_bytes=32 << 20,  # small, as loading takes most of the time; a large cache makes these figures too good
    decode=(1, 4),
    alone_decode=(1,),
    shard_decode=(1,),
    far_decode=(1,),
    few_prefill=(64,),
    many_prefill=(256,),
)
"""The steps that matter for planning one request at a time."""
AGAIN = replace(
    FULL,
    decode=(1, 16),
    alone_decode=(1,),
    shard_decode=(),
    far_decode=(1, 16),
    few_prefill=(64,),
    many_prefill=(256,),
    num_rounds=6,
)
"""A few steps of FULL, to compare a worker's current speed with earlier measurements. They are repeated often, as the
speed of a shared machine varies within a second."""
_ALONE_PREFILL_ROWS, _SHARD_PREFILL_ROWS, _FAR_PREFILL_ROWS = (256,), (64,), (64,)


@dataclass(frozen=True, slots=True, kw_only=True)
class TimedPart:
    """A range of layers, or a shard of it, and the steps to time, in order."""

    name: str
    first_layer: int
    last_layer: int
    shard: ShardPart | None = None
    has_head: bool
    steps: tuple[TimeStep, ...]
    alone_steps: tuple[TimeStep, ...] = ()
    """Steps to time again while all other workers are idle."""

    @property
    def num_layers(self) -> int:
        return self.last_layer - self.first_layer


def plan_parts(
    blocks: Sequence[Block],
    atoms: ShardAtoms,
    limits: TimeLimits,
    *,
    with_shards: bool,
    effort: Effort = FULL,
    whole_layers: bool = False,
    has_clips: bool = False,
) -> tuple[TimedPart, ...]:
    """The parts to time, in order.

    Args:
        blocks: embedding, layers, head.
        atoms: the units into which the model can be split.
        limits: how often to repeat a step.
        with_shards: whether there are several workers to share a layer.
        effort: FULL, QUICK or AGAIN.
        whole_layers: whether some worker takes no shards, not even the smallest.
        has_clips: whether the model has an encoder; it is then not split into shards.
    """
    num_layers = len(blocks) - 2
    steps = _Steps(limits, _PROMPT_OF_CLIP if has_clips else _PROMPT_TOKENS)
    long = TimedPart(
        name=LONG,
        first_layer=num_layers - _layers_of(blocks, effort.long_bytes),
        last_layer=num_layers,
        has_head=True,
        steps=(
            *steps.decode(LONG, effort.decode, (True, False)),
            *steps.prefill(LONG, effort.few_prefill),
        ),
        alone_steps=steps.decode(LONG, effort.alone_decode, (True,)),
    )
    first_short = 1 if num_layers > 2 else 0  # without the embedding and, if there are enough layers, the head
    last_short = min(max(1, num_layers - 1), first_short + _layers_of(blocks, _SHORT_BYTES))
    short = TimedPart(
        name=SHORT,
        first_layer=first_short,
        last_layer=last_short,
        has_head=last_short == num_layers,
        steps=(
            *steps.prefill(SHORT, effort.many_prefill),
            *steps.contexts(SHORT, effort.far_decode, _FAR_OF_CLIP if has_clips else _FAR_TOKENS),
        ),
        alone_steps=steps.prefill(SHORT, _ALONE_PREFILL_ROWS),
    )
    if has_clips:
        return long, short, _clip_part(steps, num_layers)
    if whole_layers:
        return long, short
    nothing = TimedPart(
        name=NOTHING,
        first_layer=0,
        last_layer=1,
        shard=_smallest_shard(atoms),
        has_head=num_layers == 1,
        steps=steps.decode(NOTHING, (8,), (False,)),
    )
    if not with_shards or not effort.shard_decode or atoms.max_shards < 2:
        return long, short, nothing
    return long, short, nothing, *_shards_of(long, atoms, steps, effort.shard_decode)


def kind_of(step: TimeStep) -> StepKind:
    """The kind of a timed step, for the fit."""
    own = min(step.prompt_rows, step.prompt_tokens) if step.prompt_rows else 1
    return StepKind(
        output_rows=step.output_rows,
        prompt_rows=step.prompt_rows,
        context=step.past_tokens + (own + 1) / 2,
        is_sampled=step.is_sampled,
        num_clips=step.clips,
    )


class _Steps:
    """Makes requests to time steps, all with the same limits."""

    def __init__(self, limits: TimeLimits, prompt_tokens: int) -> None:
        self._limits, self._prompt_tokens = limits, prompt_tokens

    def decode(
        self, part: str, rows: Iterable[int], sampled: Iterable[bool], past_tokens: int = _NEAR_TOKENS
    ) -> tuple[TimeStep, ...]:
        """Steps of output rows, sampled or not."""
        return tuple(
            self._step(part, output_rows=count, past_tokens=past_tokens, is_sampled=is_sampled)
            for count, is_sampled in product(rows, sampled)
        )

    def prefill(self, part: str, rows: Iterable[int], past_tokens: int = 0) -> tuple[TimeStep, ...]:
        """Steps of prompt rows, never sampled."""
        return tuple(self._step(part, prompt_rows=count, past_tokens=past_tokens) for count in rows)

    def contexts(self, part: str, decode_rows: Iterable[int], far_tokens: int) -> tuple[TimeStep, ...]:
        """Steps of output rows with short and with long contexts."""
        rows = tuple(decode_rows)
        return (
            *self.decode(part, rows, (False,), _NEAR_TOKENS),
            *self.decode(part, rows, (False,), far_tokens),
            *self.prefill(part, _FAR_PREFILL_ROWS),
            *self.prefill(part, _FAR_PREFILL_ROWS, far_tokens),
        )

    def _step(
        self,
        part: str,
        *,
        output_rows: int = 0,
        prompt_rows: int = 0,
        past_tokens: int,
        is_sampled: bool = False,
    ) -> TimeStep:
        return TimeStep(
            part=part,
            output_rows=output_rows,
            prompt_rows=prompt_rows,
            prompt_tokens=self._prompt_tokens,
            past_tokens=past_tokens,
            is_sampled=is_sampled,
            limits=self._limits,
        )


def _clip_part(steps: _Steps, num_layers: int) -> TimedPart:
    """A step with a clip, and the same without one."""
    (plain,) = steps.decode(CLIP, (1,), (False,))
    return TimedPart(
        name=CLIP,
        first_layer=0,
        last_layer=1,
        has_head=num_layers == 1,
        steps=(plain, structs.replace(plain, clips=1)),
    )


def _shards_of(
    long: TimedPart, atoms: ShardAtoms, steps: _Steps, decode_rows: tuple[int, ...]
) -> tuple[TimedPart, TimedPart]:
    """The larger half of the long part, and this half without its KV heads."""
    half = shard_parts(atoms, (1, 1))[0]
    columns = ShardPart(kv_heads=(0, 0), columns=half.columns, vocabulary=half.vocabulary)
    return (
        TimedPart(
            name=HALF,
            first_layer=long.first_layer,
            last_layer=long.last_layer,
            shard=half,
            has_head=True,
            steps=(
                *steps.decode(HALF, decode_rows, (True, False)),
                *steps.prefill(HALF, _SHARD_PREFILL_ROWS),
            ),
        ),
        TimedPart(
            name=COLUMNS,
            first_layer=long.first_layer,
            last_layer=long.last_layer,
            shard=columns,
            has_head=True,
            steps=(
                *steps.decode(COLUMNS, decode_rows, (False,)),
                *steps.prefill(COLUMNS, _SHARD_PREFILL_ROWS),
            ),
        ),
    )


def _smallest_shard(atoms: ShardAtoms) -> ShardPart:
    return ShardPart(
        kv_heads=(0, 0),
        columns=(0, min(atoms.column_atom, atoms.intermediate_size)),
        vocabulary=(0, min(atoms.vocab_atom, atoms.vocab_size)),
    )


def _layers_of(blocks: Sequence[Block], num_bytes: int) -> int:
    """The number of layers that have about `num_bytes`, at least 1, at most all."""
    layers = blocks[1:-1]
    mean_bytes = max(1.0, sum(layer.weight_bytes for layer in layers) / len(layers))
    return max(1, min(len(layers), -int(-num_bytes // mean_bytes)))
