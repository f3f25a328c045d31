from dataclasses import replace

import pytest

from shoal.errors import CapacityError
from shoal.planner.memory.fit import check_memory, count_workers_needed, tied_bytes
from shoal.planner.memory.plan_memory import needed_memory
from tests.planner.example_blocks import make_blocks
from tests.planner.split.test_manual import make_plan

GIB = 1 << 30
BLOCKS = make_blocks(num_layers=4, layer_bytes=GIB, end_bytes=GIB // 2, kv_bytes=0)


def test_plan_that_fits_passes():
    check_memory(make_plan(blocks=BLOCKS), blocks=BLOCKS, available_bytes=5 * GIB, shares_weights=False)


def test_plan_that_does_not_says_what_is_missing():
    with pytest.raises(CapacityError) as raised:
        check_memory(make_plan(blocks=BLOCKS), blocks=BLOCKS, available_bytes=3 * GIB, shares_weights=False)
    message = str(raised.value)
    assert "needs 5.00 GiB" in message
    assert "3.00 GiB are free" in message
    assert "2 workers with this much memory each would do (pp=2)" in message


def test_copies_that_do_not_fit_say_that_one_does():
    with pytest.raises(CapacityError, match=r"needs 10\.00 GiB.*; 1 worker with"):
        check_memory(make_plan("dp=2", blocks=BLOCKS), blocks=BLOCKS, available_bytes=6 * GIB, shares_weights=False)


def test_kv_memory_counts():
    blocks = make_blocks(num_layers=2, layer_bytes=0, end_bytes=0, kv_bytes=GIB // 1024)
    plan = make_plan(blocks=blocks, kv_memory_bytes=2 * GIB)
    check_memory(plan, blocks=blocks, available_bytes=2 * GIB, shares_weights=False)
    with pytest.raises(CapacityError, match=r"2\.00 GiB for KV"):
        check_memory(plan, blocks=blocks, available_bytes=GIB, shares_weights=False)


def test_all_shards_count():
    halves = make_blocks(num_layers=4, layer_bytes=GIB // 2, end_bytes=GIB // 4, kv_bytes=0)
    plan = make_plan("tp=2", blocks=halves)
    check_memory(plan, blocks=BLOCKS, available_bytes=5 * GIB, shares_weights=False)
    with pytest.raises(CapacityError, match=r"--split tp=2 needs 5\.00 GiB .* \(pp=2\)"):
        check_memory(plan, blocks=BLOCKS, available_bytes=5 * GIB - 1, shares_weights=False)


def test_workers_needed():
    assert count_workers_needed(BLOCKS, kv_tokens=0, available_bytes=5 * GIB) == 1
    assert count_workers_needed(BLOCKS, kv_tokens=0, available_bytes=2 * GIB) == 3
    assert count_workers_needed(BLOCKS, kv_tokens=0, available_bytes=GIB + GIB // 2) == 4
    assert count_workers_needed(BLOCKS, kv_tokens=0, available_bytes=GIB) is None


def test_no_way_out_is_said():
    with pytest.raises(CapacityError, match="no pipeline split"):
        check_memory(make_plan(blocks=BLOCKS), blocks=BLOCKS, available_bytes=GIB, shares_weights=False)


def test_copies_share_kept_weights_and_nothing_else():
    blocks = make_blocks(num_layers=4, layer_bytes=GIB, end_bytes=GIB // 2, kv_bytes=GIB // 1024)
    plan = make_plan("dp=2", blocks=blocks, kv_memory_bytes=2 * GIB)
    own = needed_memory(plan, shares_weights=False)
    shared = needed_memory(plan, shares_weights=True)
    assert (own.weight_bytes, shared.weight_bytes) == (10 * GIB, 5 * GIB)
    assert own.kv_bytes == shared.kv_bytes == 2 * GIB
    check_memory(plan, blocks=blocks, available_bytes=7 * GIB, shares_weights=True)
    with pytest.raises(CapacityError, match=r"needs 7\.00 GiB"):
        check_memory(plan, blocks=blocks, available_bytes=7 * GIB - 1, shares_weights=True)


def test_stages_and_shards_share_nothing():
    for split in ("pp=2", "tp=2"):
        plan = make_plan(split, blocks=BLOCKS)
        assert needed_memory(plan, shares_weights=True) == needed_memory(plan, shares_weights=False)


@pytest.mark.parametrize("split", ["1", "dp=2", "pp=2", "pp=3", "dp=2,pp=2"])
def test_a_head_that_is_the_embedding_is_mapped_once(split: str):
    blocks = [*BLOCKS[:-1], replace(BLOCKS[-1], same_weights_as="embedding")]
    needed = needed_memory(make_plan(split, blocks=blocks), shares_weights=True, tied_bytes=tied_bytes(blocks))
    assert needed.weight_bytes == sum(block.weight_bytes for block in blocks[:-1])


def test_a_head_of_its_own_is_held_beside_the_embedding():
    assert tied_bytes(BLOCKS) == 0
    needed = needed_memory(make_plan("pp=2", blocks=BLOCKS), shares_weights=True, tied_bytes=tied_bytes(BLOCKS))
    assert needed.weight_bytes == sum(block.weight_bytes for block in BLOCKS)
