"""Blocks are conserved, whatever is done with them."""

import random
from array import array

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule

from shoal.core.kv.first_blocks import FirstBlocks
from shoal.core.kv.kv_blocks import KvBlocks
from shoal.core.kv.prefix_index import PrefixIndex, extend_digests
from shoal.core.sequences.request import Request, RequestId

NUM_BLOCKS = 6


class KvBlocksMachine(RuleBasedStateMachine):
    """References are handed out and given back in any order; the model is a count for each block."""

    held = Bundle("held")

    def __init__(self) -> None:
        super().__init__()
        self.blocks = KvBlocks(NUM_BLOCKS)
        self.counts = [0] * NUM_BLOCKS
        self.cached: dict[bytes, int] = {}

    @rule(target=held)
    def allocate(self):
        block = self.blocks.allocate()
        if block is None:
            assert all(self.counts)
            return multiple()
        assert self.counts[block] == 0
        self.cached = {digest: b for digest, b in self.cached.items() if b != block}
        self.counts[block] = 1
        return block

    @rule(block=held, digest=st.integers(0, 4).map(lambda i: bytes([i])))
    def register(self, block, digest):
        is_new = digest not in self.cached and block not in self.cached.values()
        assert self.blocks.index.register(digest, block) == is_new
        if is_new:
            self.cached[digest] = block

    @rule(target=held, digest=st.integers(0, 4).map(lambda i: bytes([i])))
    def share(self, digest):
        found = self.blocks.index.lookup([digest])
        assert found == [self.cached[digest]] if digest in self.cached else found == []
        if not found:
            return multiple()
        self.blocks.share(found[0])
        self.counts[found[0]] += 1
        return found[0]

    @rule(block=consumes(held))
    def release(self, block):
        self.blocks.release(block)
        self.counts[block] -= 1

    @invariant()
    def counts_agree(self):
        assert [self.blocks.references(block) for block in range(NUM_BLOCKS)] == self.counts
        assert self.blocks.num_free == self.counts.count(0)
        assert self.blocks.index.num_cached == len(self.cached)
        assert self.blocks.index.num_evictable == sum(self.counts[block] == 0 for block in self.cached.values())


TestKvBlocks = KvBlocksMachine.TestCase
TestKvBlocks.settings = settings(max_examples=60, stateful_step_count=40, deadline=None, derandomize=True)


def test_all_blocks_can_be_had_once():
    blocks = KvBlocks(3)
    assert sorted(block for block in (blocks.allocate() for _ in range(3)) if block is not None) == [0, 1, 2]
    assert blocks.allocate() is None


def test_releasing_too_often_is_noticed():
    blocks = KvBlocks(1)
    block = blocks.allocate()
    assert block is not None
    blocks.release(block)
    with pytest.raises(AssertionError, match="more often"):
        blocks.release(block)


def test_free_blocks_are_taken_before_cached_ones_and_those_in_order_of_use():
    blocks = KvBlocks(3)
    first, second, third = (blocks.allocate() for _ in range(3))
    assert first is not None
    assert second is not None
    assert third is not None
    blocks.index.register(b"first", first)
    blocks.index.register(b"second", second)
    for block in (first, second, third):
        blocks.release(block)
    blocks.share(first)
    blocks.release(first)
    assert [blocks.allocate() for _ in range(3)] == [third, second, first]
    assert blocks.index.num_cached == 0


def test_lookup_ends_at_the_first_gap():
    index = PrefixIndex()
    index.register(b"a", 5)
    index.register(b"c", 7)
    assert index.lookup([b"a", b"b", b"c"]) == [5]


@pytest.mark.parametrize("seed", range(20))
def test_a_fleet_knows_who_has_a_first_block(seed: int) -> None:
    rng, told = random.Random(seed), FirstBlocks()
    replicas = [KvBlocks(4) for _ in range(3)]
    for number, blocks in enumerate(replicas[:2]):
        blocks.index.tell(told, number)
    for step in range(200):
        number = rng.randrange(3)
        block = replicas[number].allocate()
        assert block is not None
        is_first = rng.random() < 0.5
        replicas[number].index.register(b"%d%d" % (is_first, rng.randrange(6)), block, is_first=is_first)
        replicas[number].release(block)
        if step == 50:
            replicas[2].index.tell(told, 2)
        if step == 150:
            replicas[0].index.stop_telling()
            replicas[0] = KvBlocks(4)
            replicas[0].index.tell(told, 0)
        listened = range(2 if step < 50 else 3)
        for first in (b"1%d" % one for one in range(6)):
            assert sorted(told.holders(first)) == [one for one in listened if replicas[one].index.lookup([first])]
        assert not any(told.holders(b"0%d" % one) for one in range(6))


def test_digests_cover_everything_before_a_block():
    one: list[bytes] = []
    two: list[bytes] = []
    extend_digests(one, array("i", [1, 2, 3, 4]), 2, 2)
    extend_digests(two, array("i", [9, 2, 3, 4]), 2, 2)
    assert one[0] != two[0]
    assert one[1] != two[1], "same tokens behind another beginning"


def test_digests_cover_the_adapter():
    tokens = array("i", range(8))
    chains: list[list[bytes]] = [[] for _ in range(4)]
    for adapter, digests in enumerate(chains, start=-1):
        root = Request(request_id=RequestId("a"), prompt_ids=(1,), max_tokens=1, adapter=adapter).root
        extend_digests(digests, tokens, 2, 1, root)
        extend_digests(digests, tokens, 2, 4, root)
    assert len({digest for digests in chains for digest in digests}) == 16


def test_digests_can_be_extended_later():
    tokens = array("i", range(9))
    at_once: list[bytes] = []
    in_parts: list[bytes] = []
    extend_digests(at_once, tokens, 3, 3)
    extend_digests(in_parts, tokens[:5], 3, 1)
    extend_digests(in_parts, tokens, 3, 3)
    assert in_parts == at_once
    assert len(set(at_once)) == 3
