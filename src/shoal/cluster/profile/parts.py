"""Which parts of a model are timed, and which steps through them. Pure: sizes in, requests out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product

from shoal.core.plan import Block, ShardPart
from shoal.core.shard_atoms import ShardAtoms
from shoal.planner.shares import shard_parts
from shoal.planner.step_points import StepKind
from shoal.protocol.profile_messages import TimeLimits, TimeStep

_LONG_BYTES = 256 << 20
"""Weights of the long part, where the model has more: several times the last-level cache of a server processor."""
_SHORT_BYTES = 8 << 20
"""Weights of the short part: multiplying them by many rows takes much longer than reading them from anywhere."""
_DECODE_ROWS = (1, 2, 4, 8, 16, 32)
_ALONE_DECODE_ROWS = (1, 4, 16)
_SHARD_DECODE_ROWS = (1, 16)
_FEW_PREFILL_ROWS = (8, 64)
_MANY_PREFILL_ROWS = (128, 256, 512)
_ALONE_PREFILL_ROWS = (256,)
_SHARD_PREFILL_ROWS = (64,)
_PROMPT_TOKENS = 128
"""rows of one sequence among prompt rows"""
_NEAR_TOKENS, _FAR_TOKENS = 32, 480
"""Contexts. Far: keys and values of many sequences then come from memory, as they do while a model decodes."""
_FAR_DECODE_ROWS = (1, 16)
_FAR_PREFILL_ROWS = (64,)

LONG, SHORT, HALF, COLUMNS, NOTHING = "long", "short", "half", "columns", "nothing"
"""Names of parts: see planner.step_points. NOTHING is the smallest shard there is, for what a step costs by itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Layers, or a shard of them, and the steps to time, in order."""

    name: str
    first_layer: int
    last_layer: int
    shard: ShardPart | None = None
    has_head: bool
    steps: tuple[TimeStep, ...]
    alone_steps: tuple[TimeStep, ...] = ()
    """those to time again while all other workers are idle"""

    @property
    def num_layers(self) -> int:
        return self.last_layer - self.first_layer


def plan_parts(
    blocks: Sequence[Block], atoms: ShardAtoms, limits: TimeLimits, *, with_shards: bool
) -> tuple[Part, ...]:
    """The parts to time, in order.

    Args:
        blocks: embedding, layers, head; weights counted once even where they are held in two packings.
        atoms: into what the model can be cut.
        limits: how often to repeat a step.
        with_shards: whether there is anybody to share a layer with.
    """
    num_layers = len(blocks) - 2
    steps = _Steps(limits)
    long = Part(
        name=LONG,
        first_layer=num_layers - _layers_of(blocks, _LONG_BYTES),
        last_layer=num_layers,
        has_head=True,
        steps=(
            *steps.decode(LONG, _DECODE_ROWS, (True, False)),
            *steps.prefill(LONG, _FEW_PREFILL_ROWS),
        ),
        alone_steps=steps.decode(LONG, _ALONE_DECODE_ROWS, (True,)),
    )
    first_short = 1 if num_layers > 2 else 0  # neither the embedding nor, where there are layers enough, the head
    last_short = min(max(1, num_layers - 1), first_short + _layers_of(blocks, _SHORT_BYTES))
    short = Part(
        name=SHORT,
        first_layer=first_short,
        last_layer=last_short,
        has_head=last_short == num_layers,
        steps=(*steps.prefill(SHORT, _MANY_PREFILL_ROWS), *steps.contexts(SHORT)),
        alone_steps=steps.prefill(SHORT, _ALONE_PREFILL_ROWS),
    )
    nothing = Part(
        name=NOTHING,
        first_layer=0,
        last_layer=1,
        shard=_smallest_shard(atoms),
        has_head=num_layers == 1,
        steps=steps.decode(NOTHING, (8,), (False,)),
    )
    if not with_shards or atoms.max_shards < 2:
        return long, short, nothing
    return long, short, nothing, *_shards_of(long, atoms, steps)


def kind_of(step: TimeStep) -> StepKind:
    """A request as the fit sees it."""
    own = min(step.prompt_rows, step.prompt_tokens) if step.prompt_rows else 1
    return StepKind(
        output_rows=step.output_rows,
        prompt_rows=step.prompt_rows,
        context=step.past_tokens + (own + 1) / 2,
        is_sampled=step.is_sampled,
    )


class _Steps:
    """Requests to time steps, always with the same limits."""

    def __init__(self, limits: TimeLimits) -> None:
        self._limits = limits

    def decode(
        self, part: str, rows: Iterable[int], sampled: Iterable[bool], past_tokens: int = _NEAR_TOKENS
    ) -> tuple[TimeStep, ...]:
        """Output rows, sampled or not."""
        return tuple(
            self._step(part, output_rows=count, past_tokens=past_tokens, is_sampled=is_sampled)
            for count, is_sampled in product(rows, sampled)
        )

    def prefill(self, part: str, rows: Iterable[int], past_tokens: int = 0) -> tuple[TimeStep, ...]:
        """Prompt rows, never sampled."""
        return tuple(self._step(part, prompt_rows=count, past_tokens=past_tokens) for count in rows)

    def contexts(self, part: str) -> tuple[TimeStep, ...]:
        """The same rows, near and far."""
        return (
            *self.decode(part, _FAR_DECODE_ROWS, (False,), _NEAR_TOKENS),
            *self.decode(part, _FAR_DECODE_ROWS, (False,), _FAR_TOKENS),
            *self.prefill(part, _FAR_PREFILL_ROWS),
            *self.prefill(part, _FAR_PREFILL_ROWS, _FAR_TOKENS),
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
            prompt_tokens=_PROMPT_TOKENS,
            past_tokens=past_tokens,
            is_sampled=is_sampled,
            limits=self._limits,
        )


def _shards_of(long: Part, atoms: ShardAtoms, steps: _Steps) -> tuple[Part, Part]:
    """The larger half of the long part, and the same without its KV heads."""
    half = shard_parts(atoms, (1, 1))[0]
    columns = ShardPart(kv_heads=(0, 0), columns=half.columns, vocabulary=half.vocabulary)
    return (
        Part(
            name=HALF,
            first_layer=long.first_layer,
            last_layer=long.last_layer,
            shard=half,
            has_head=True,
            steps=(
                *steps.decode(HALF, _SHARD_DECODE_ROWS, (True, False)),
                *steps.prefill(HALF, _SHARD_PREFILL_ROWS),
            ),
        ),
        Part(
            name=COLUMNS,
            first_layer=long.first_layer,
            last_layer=long.last_layer,
            shard=columns,
            has_head=True,
            steps=(
                *steps.decode(COLUMNS, _SHARD_DECODE_ROWS, (False,)),
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
    """Layers that make so many bytes, at least 1, at most all."""
    layers = blocks[1:-1]
    mean_bytes = max(1.0, sum(layer.weight_bytes for layer in layers) / len(layers))
    return max(1, min(len(layers), -int(-num_bytes // mean_bytes)))
