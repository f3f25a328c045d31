"""Which parts of a model are timed."""

from __future__ import annotations

import pytest

from shoal.core.plan.language import Block
from shoal.core.plan.shard_atoms import ShardAtoms
from shoal.measure.language.parts import (
    COLUMNS,
    FULL,
    HALF,
    LONG,
    NOTHING,
    QUICK,
    SHORT,
    Effort,
    TimedPart,
    kind_of,
    plan_parts,
)
from shoal.planner.speeds.step_points import StepKind
from shoal.protocol.profile_messages import TimeLimits

LIMITS = TimeLimits(min_runs=1, max_runs=1, enough_s=0.0)
ATOMS = ShardAtoms(
    num_kv_heads=4, kv_heads_per_atom=1, intermediate_size=128, column_atom=32, vocab_size=320, vocab_atom=32
)
MIB = 1 << 20


def parts_of(
    num_layers: int, layer_bytes: int, *, with_shards: bool = True, atoms: ShardAtoms = ATOMS, effort: Effort = FULL
) -> dict[str, TimedPart]:
    sizes = [100 * MIB, *[layer_bytes] * num_layers, 100 * MIB]
    blocks = [
        Block(name=str(i), weight_bytes=size, flops_per_token=1, kv_bytes_per_token=1, output_bytes_per_token=1)
        for i, size in enumerate(sizes)
    ]
    return {part.name: part for part in plan_parts(blocks, atoms, LIMITS, with_shards=with_shards, effort=effort)}


def span(part: TimedPart) -> tuple[int, int]:
    return part.first_layer, part.last_layer


def test_a_small_model_is_timed_whole():
    parts = parts_of(30, 3 * MIB)
    assert list(parts) == [LONG, SHORT, NOTHING, HALF, COLUMNS]
    assert span(parts[LONG]) == span(parts[HALF]) == span(parts[COLUMNS]) == (0, 30)
    assert span(parts[SHORT]) == (1, 4)
    assert parts[LONG].has_head
    assert not parts[SHORT].has_head


def test_of_a_large_model_only_as_much_as_no_cache_holds():
    parts = parts_of(32, 100 * MIB)
    assert span(parts[LONG]) == (29, 32)
    assert span(parts[SHORT]) == (1, 2)


@pytest.mark.parametrize(("num_layers", "short"), [(1, (0, 1)), (2, (0, 1)), (3, (1, 2))])
def test_models_of_a_few_layers_have_all_parts(num_layers, short):
    parts = parts_of(num_layers, MIB)
    assert span(parts[LONG]) == (0, num_layers)
    assert span(parts[SHORT]) == short
    assert parts[SHORT].has_head == (num_layers == 1)
    assert span(parts[NOTHING]) == (0, 1)


def test_shards_are_half_of_everything_and_the_same_without_heads():
    parts = parts_of(30, MIB)
    half, columns = parts[HALF].shard, parts[COLUMNS].shard
    assert half is not None
    assert columns is not None
    assert (half.kv_heads, half.columns, half.vocabulary) == ((0, 2), (0, 64), (0, 160))
    assert (columns.kv_heads, columns.columns) == ((0, 0), (0, 64))
    assert {kind_of(step) for step in parts[COLUMNS].steps} <= {kind_of(step) for step in parts[HALF].steps}
    assert {kind_of(step) for step in parts[HALF].steps} <= {kind_of(step) for step in parts[LONG].steps}


def test_what_cannot_be_shared_is_not_timed_in_shards():
    tiny = ShardAtoms(
        num_kv_heads=1, kv_heads_per_atom=1, intermediate_size=32, column_atom=32, vocab_size=32, vocab_atom=32
    )
    assert list(parts_of(4, MIB, atoms=tiny)) == [LONG, SHORT, NOTHING]
    assert list(parts_of(4, MIB, with_shards=False)) == [LONG, SHORT, NOTHING]


def test_a_quick_look_times_the_same_parts_with_half_of_the_steps():
    full, quick = parts_of(30, 3 * MIB), parts_of(30, 3 * MIB, effort=QUICK)
    assert list(quick) == list(full)
    assert span(quick[LONG]) == (19, 30)
    counts = [sum(len(part.steps) + len(part.alone_steps) for part in parts.values()) for parts in (full, quick)]
    assert counts == [36, 18]
    for name, part in quick.items():
        assert {kind_of(step) for step in part.steps} <= {kind_of(step) for step in full[name].steps}
        assert set(part.alone_steps) <= set(part.steps)
    assert {kind_of(step) for step in quick[HALF].steps} <= {kind_of(step) for step in quick[LONG].steps}


def test_steps_are_asked_for_a_part_each_and_none_twice():
    for part in parts_of(30, MIB).values():
        assert {step.part for step in (*part.steps, *part.alone_steps)} == {part.name}
        assert set(part.alone_steps) <= set(part.steps)


def test_contexts_count_a_rows_own_token():
    """Prompts of 128: rows 1 to 128 look back on themselves and those before."""
    parts = parts_of(30, MIB)
    kinds = [kind_of(step) for step in (*parts[LONG].steps, *parts[SHORT].steps)]
    assert StepKind(output_rows=4, context=33.0, is_sampled=True) in kinds
    assert StepKind(prompt_rows=512, context=64.5) in kinds
    assert StepKind(prompt_rows=8, context=4.5) in kinds
