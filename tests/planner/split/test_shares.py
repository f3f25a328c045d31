"""Parts of a layer: everything owned exactly once, in pieces that can be cut off, within the memory there is."""

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from shoal.core.plan.shard_atoms import ShardAtoms
from shoal.errors import CapacityError, ConfigError
from shoal.planner.split.shares import attention_notes, deal_experts, shard_parts
from shoal.protocol.stage_config import ExpertSpan

SMOLLM2 = ShardAtoms(
    num_kv_heads=3, kv_heads_per_atom=1, intermediate_size=1536, column_atom=32, vocab_size=49152, vocab_atom=32
)
AXES = {"kv_heads": "num_kv_heads", "columns": "intermediate_size", "vocabulary": "vocab_size"}
all_atoms = st.builds(
    ShardAtoms,
    num_kv_heads=st.integers(1, 40),
    kv_heads_per_atom=st.sampled_from([1, 2, 4]),
    intermediate_size=st.integers(1, 15_000),
    column_atom=st.just(32),
    vocab_size=st.integers(1, 260_000),
    vocab_atom=st.just(32),
)
all_shares = st.lists(st.one_of(st.integers(1, 50), st.floats(0.01, 100.0)), min_size=1, max_size=16)


def sizes(parts, axis):
    return [getattr(part, axis)[1] - getattr(part, axis)[0] for part in parts]


def check_owned_once(atoms, parts):
    """Contiguous in rank order, from the first to the last, at whole atoms."""
    per_atom = {"kv_heads": atoms.kv_heads_per_atom, "columns": atoms.column_atom, "vocabulary": atoms.vocab_atom}
    for axis, size in AXES.items():
        ranges = [getattr(part, axis) for part in parts]
        total = getattr(atoms, size)
        assert ranges[0][0] == 0
        assert ranges[-1][1] == total
        assert all(one[1] == other[0] for one, other in pairwise(ranges))
        assert all(first <= last for first, last in ranges)
        assert all(first % per_atom[axis] == 0 or first == total for first, _ in ranges)


@given(all_atoms, all_shares)
def test_every_head_column_and_row_is_owned_exactly_once(atoms, shares):
    assume(len(shares) <= atoms.max_shards)
    parts = shard_parts(atoms, shares)
    assert len(parts) == len(shares)
    check_owned_once(atoms, parts)
    assert min(sizes(parts, "columns")) >= 1
    assert min(sizes(parts, "vocabulary")) >= 1


@given(all_atoms, all_shares, st.data())
def test_caps_are_kept_or_refused(atoms, shares, data):
    assume(len(shares) <= atoms.max_shards)

    def caps(total):
        cap = st.integers(total // len(shares), total + 100)
        return data.draw(st.lists(cap, min_size=len(shares), max_size=len(shares)))

    given_caps = {axis: caps(getattr(atoms, size)) for axis, size in AXES.items()}
    try:
        parts = shard_parts(
            atoms,
            shares,
            kv_head_caps=given_caps["kv_heads"],
            column_caps=given_caps["columns"],
            vocabulary_caps=given_caps["vocabulary"],
        )
    except CapacityError:
        return
    check_owned_once(atoms, parts)
    for axis, axis_caps in given_caps.items():
        assert all(size <= cap for size, cap in zip(sizes(parts, axis), axis_caps, strict=True))


def test_smollm2():
    two, unequal, three = (shard_parts(SMOLLM2, shares) for shares in ((1, 1), (2, 1), (1, 1, 1)))
    assert [part.kv_heads for part in two] == [(0, 2), (2, 3)]
    assert [part.columns for part in two] == [(0, 768), (768, 1536)]
    assert [part.kv_heads for part in three] == [(0, 1), (1, 2), (2, 3)]
    assert sizes(unequal, "kv_heads") == [2, 1]
    assert sizes(unequal, "columns") == [1024, 512]
    assert sizes(unequal, "vocabulary") == [32768, 16384]


def test_more_shards_than_kv_heads_leave_some_without_attention():
    parts = shard_parts(SMOLLM2, (1,) * 5)
    assert sizes(parts, "kv_heads") == [1, 1, 1, 0, 0]
    assert attention_notes(parts) == (
        "shard 3, 4 of 5: no attention, only MLP and vocabulary (the model has 3 KV heads, which are not divided)",
    )
    assert attention_notes(parts[:3]) == ()


def test_more_shards_than_columns_are_refused_with_what_is_possible():
    atoms = ShardAtoms(
        num_kv_heads=8, kv_heads_per_atom=1, intermediate_size=100, column_atom=32, vocab_size=320, vocab_atom=32
    )
    with pytest.raises(ConfigError, match=r"5 shards are more .* 100 MLP columns .* give at most tp=4"):
        shard_parts(atoms, (1,) * 5)
    assert sizes(shard_parts(atoms, (1,) * 4), "columns") == [32, 32, 32, 4]


def test_a_tiny_share_still_gets_a_piece():
    assert sizes(shard_parts(SMOLLM2, (1000, 1)), "columns") == [1504, 32]


def test_memory_for_less_than_everything_is_refused():
    with pytest.raises(CapacityError):
        shard_parts(SMOLLM2, (1, 1), column_caps=(1000, 500))
    assert sizes(shard_parts(SMOLLM2, (1, 1), column_caps=(500, 1536)), "columns") == [480, 1056]


MIXTRAL = replace(SMOLLM2, num_experts=8)


def test_whole_experts_have_shares_of_their_own():
    parts = shard_parts(MIXTRAL, (2, 1), expert_shares=(3, 1))
    assert [part.experts for part in parts] == [((ExpertSpan(0, 6),),), ((ExpertSpan(6, 8),),)]
    assert sizes(parts, "columns") == [1024, 512]


@given(st.integers(1, 300), st.lists(st.integers(1, 50), min_size=1, max_size=16))
def test_every_expert_is_dealt_once(num_experts, shares):
    assume(len(shares) <= num_experts)
    spans = [span for (span,) in deal_experts(replace(SMOLLM2, num_experts=num_experts), shares)]
    assert [span.first for span in spans] == [0, *(span.last for span in spans[:-1])]
    assert spans[-1].last == num_experts
    assert all(span.last > span.first for span in spans)


def test_experts_that_cannot_be_dealt_out():
    with pytest.raises(ConfigError, match="this model has no experts to deal out with ep; use tp"):
        shard_parts(SMOLLM2, (1, 1), expert_shares=(1, 1))
    with pytest.raises(ConfigError, match=r"9 shards are more .* 8 experts, .* give at most ep=8"):
        shard_parts(MIXTRAL, (1,) * 9, expert_shares=(1,) * 9)


def test_narrow_experts_can_be_dealt_out_where_columns_cannot():
    narrow = replace(MIXTRAL, intermediate_size=64)
    parts = shard_parts(narrow, (1, 1, 1), expert_shares=(1, 1, 1))
    assert sizes(parts, "columns") == [32, 32, 0]
    check_owned_once(narrow, parts)
