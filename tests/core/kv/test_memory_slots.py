"""Slots for what an encoder gave: conserved, shared by requests over one clip, and encoded once for each."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from shoal.core.generation.events import RequestCancelled, WorkersLost, WorkersReady
from shoal.core.kv.memory_slots import MAX_KEPT, MemorySlots
from shoal.core.sequences.request import Clip, Request
from tests.core.generation.scheduler_driver import Driver, ints, make_config, make_request

NUM_SLOTS = 6
keys = st.integers(0, 8).map(lambda number: bytes([number]))


class MemorySlotsMachine(RuleBasedStateMachine):
    """Clips are taken, encoded and given back in any order; the model is who holds what."""

    def __init__(self) -> None:
        super().__init__()
        self.slots = MemorySlots(NUM_SLOTS)
        self.held: dict[bytes, int] = {}
        self.encoded: set[bytes] = set()

    @rule(key=keys)
    def take(self, key: bytes) -> None:
        has_room = key in self.held or len(self.held) < NUM_SLOTS
        assert self.slots.has_room(key) == has_room
        if not has_room:
            return
        was_there = self.slots.slots
        slot = self.slots.take(key)
        if key in was_there:
            assert slot == was_there[key]
        else:
            self.encoded.discard(key)
        assert slot not in {self.slots.slots[other] for other in self.held if other != key}
        self.held[key] = self.held.get(key, 0) + 1

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def encode(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.held)))
        assert self.slots.encode_once(key) == (key not in self.encoded)
        assert self.slots.is_encoded(key)
        self.encoded.add(key)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.held)))
        self.slots.give_back(key)
        self.held[key] -= 1
        if not self.held[key]:
            del self.held[key]

    @invariant()
    def no_slot_is_lost(self) -> None:
        slots = self.slots.slots
        assert len(set(slots.values())) == len(slots)
        assert len(slots) + self.slots.num_free == NUM_SLOTS
        assert len(slots) - len(self.held) <= MAX_KEPT
        assert all(self.slots.num_holders(key) == count for key, count in self.held.items())


TestMemorySlots = MemorySlotsMachine.TestCase
TestMemorySlots.settings = settings(max_examples=50, stateful_step_count=40, deadline=None)


def request(name: str, clip: str, **changes: int) -> Request:
    key = clip.encode()
    return make_request(name, 3, clip=Clip(key=key, num_rows=10, features=key * 2), **changes)


def encoded(driver: Driver) -> list[str]:
    """Clips of all steps so far."""
    return [
        encoding.features[: len(encoding.features) // 2].decode() for step in driver.sent for encoding in step.encodings
    ]


@pytest.fixture
def driver() -> Driver:
    return Driver(make_config(num_memories=2))


def test_a_clip_is_encoded_once_and_each_step_encodes_one(driver: Driver) -> None:
    driver.add(request("a", "x"), request("b", "y"), request("c", "x"))
    driver.finish()
    assert encoded(driver) == ["x", "y"]
    assert all(len(step.encodings) <= 1 for step in driver.sent)
    assert {name: len(tokens) for name, tokens in driver.tokens.items()} == {"a": 4, "b": 4, "c": 4}


def test_requests_wait_for_a_slot(driver: Driver) -> None:
    driver.add(*(request(name, name) for name in "abcd"))
    assert sorted(driver.scheduler.state.running) == ["a", "b"] or len(driver.scheduler.state.running) == 1
    driver.finish()
    assert encoded(driver) == ["a", "b", "c", "d"]
    slots = {slot for step in driver.sent for slot in ints(step.memory_slots)}
    assert slots == {0, 1}


def test_lost_workers_encode_again(driver: Driver) -> None:
    driver.add(request("a", "x"))
    driver.tell(WorkersLost(reason="killed"))
    driver.in_flight.clear()
    driver.tell(WorkersReady())
    driver.finish()
    assert encoded(driver) == ["x", "x"]
    assert len(driver.tokens["a"]) == 4


def test_a_cancelled_request_gives_its_slot_back(driver: Driver) -> None:
    driver.add(request("a", "x"), request("b", "y"))
    driver.tell(RequestCancelled(request_id=request("a", "x").request_id))
    driver.finish()
    driver.add(request("c", "z"))
    driver.finish()
    assert len(driver.tokens["c"]) == 4
    assert driver.scheduler.state.kv.memories is not None
    assert all(driver.scheduler.state.kv.memories.num_holders(key) == 0 for key in (b"x", b"y", b"z"))


def test_blocks_of_one_clip_are_not_those_of_another(driver: Driver) -> None:
    long = tuple(range(12))
    for name, clip in (("a", "x"), ("b", "y"), ("c", "x")):
        key = clip.encode()
        driver.add(make_request(name, long, clip=Clip(key=key, num_rows=10, features=key * 2)))
        driver.finish()
    cached = {name: finished.num_cached_tokens for name, finished in driver.finished.items()}
    assert cached == {"a": 0, "b": 0, "c": 8}
