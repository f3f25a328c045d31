"""Slots of recurrent state are conserved, and a prefix is taken over only up to a snapshot."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, precondition, rule

from shoal.core.generation.events import WorkersLost, WorkersReady
from shoal.core.kv.state_slots import StateSlots
from tests.core.generation.scheduler_driver import Driver, ints, make_config, make_request

NUM_RUNNING, NUM_SNAPSHOTS = 3, 4
digests = st.integers(0, 5).map(lambda i: bytes([i]))


class StateSlotsMachine(RuleBasedStateMachine):
    """Slots are taken, reserved, kept and given up in any order; the model is what should be where."""

    own = Bundle("own")
    reserved = Bundle("reserved")

    def __init__(self) -> None:
        super().__init__()
        self.slots = StateSlots(num_running=NUM_RUNNING, num_snapshots=NUM_SNAPSHOTS)
        self.taken: set[int] = set()
        self.waiting: set[int] = set()
        self.kept: dict[bytes, int] = {}
        """least recently used first"""

    @precondition(lambda self: len(self.taken) < NUM_RUNNING)
    @rule(target=own)
    def take(self):
        slot = self.slots.take()
        assert slot in set(range(NUM_RUNNING)) - self.taken
        self.taken.add(slot)
        return slot

    @rule(slot=consumes(own))
    def give_back(self, slot):
        self.slots.give_back(slot)
        self.taken.remove(slot)

    @rule(target=reserved, may_evict=st.booleans())
    def reserve(self, may_evict):
        num_held = len(self.waiting) + len(self.kept)
        slot = self.slots.reserve(may_evict=may_evict)
        if num_held == NUM_SNAPSHOTS and may_evict and self.kept:
            assert slot == self.kept.pop(next(iter(self.kept)))
        if slot is None:
            assert num_held == NUM_SNAPSHOTS
            return multiple()
        assert slot in set(range(NUM_RUNNING, NUM_RUNNING + NUM_SNAPSHOTS)) - self.waiting
        self.waiting.add(slot)
        return slot

    @rule(slot=consumes(reserved), digest=digests)
    def keep(self, slot, digest):
        assert self.slots.keep(digest, slot) == (digest not in self.kept)
        self.waiting.remove(slot)
        self.kept.setdefault(digest, slot)

    @rule(slot=consumes(reserved))
    def drop(self, slot):
        self.slots.drop(slot)
        self.waiting.remove(slot)

    @rule(digest=digests)
    def use(self, digest):
        assert (digest in self.slots) == (digest in self.kept)
        if digest in self.kept:
            assert self.slots.use(digest) == self.kept[digest]
            self.kept[digest] = self.kept.pop(digest)

    @rule(digest=digests)
    def discard(self, digest):
        self.slots.discard(digest)
        self.kept.pop(digest, None)

    @invariant()
    def nothing_is_lost(self):
        assert self.slots.num_free == NUM_RUNNING - len(self.taken)
        assert self.slots.num_free_for_snapshots == NUM_SNAPSHOTS - len(self.waiting) - len(self.kept)
        assert list(self.slots.snapshots.items()) == list(self.kept.items())


TestStateSlots = StateSlotsMachine.TestCase
TestStateSlots.settings = settings(max_examples=60, stateful_step_count=40, deadline=None, derandomize=True)


def driver(**changes: int) -> Driver:
    return Driver(make_config(num_states=8 + 4, **changes))


def cached_tokens(one: Driver, name: str) -> int:
    return one.finished[name].num_cached_tokens


def test_the_end_of_a_prompt_is_kept_for_its_next_turn():
    one = driver()
    one.add(make_request("first", [1] * 11, max_tokens=1))
    one.finish()
    assert ints(one.sent[0].state_slots)[0] == -1, "a sequence begins with nothing"
    assert ints(one.sent[0].state_saves)[:2] == [0, 8], "its last whole block is behind row 8"
    one.add(make_request("second", [1] * 11 + [2] * 3, max_tokens=1))
    one.finish()
    assert cached_tokens(one, "second") == 8


def test_the_end_of_an_answer_is_kept_for_the_next_turn():
    one = driver()
    one.add(make_request("first", [1] * 6, max_tokens=12))
    one.finish()
    text = [1] * 6 + one.tokens["first"]
    one.add(make_request("second", [*text, 5], max_tokens=1))
    one.finish()
    assert cached_tokens(one, "second") == 16, "of 17 rows that were computed"


def test_a_common_beginning_is_kept_once_a_second_prompt_has_shown_it():
    one = driver()
    for index, name in enumerate(("first", "second", "third")):
        one.add(make_request(name, [1] * 17 + [2 + index] * 8, max_tokens=1))
        one.finish()
    assert [cached_tokens(one, name) for name in ("first", "second", "third")] == [0, 0, 16]


def test_outputs_never_take_the_slots_of_prompts():
    one = Driver(make_config(num_states=8 + 1))
    one.add(make_request("first", [1] * 6, max_tokens=24))
    one.finish()
    one.add(make_request("second", [1] * 6 + [2], max_tokens=1))
    one.finish()
    assert cached_tokens(one, "second") == 4


def test_a_prefix_without_a_snapshot_is_computed_again():
    one = Driver(make_config(num_states=8))
    for name in ("first", "second"):
        one.add(make_request(name, [1] * 11, max_tokens=1))
        one.finish()
    assert cached_tokens(one, "second") == 0
    assert all(not step.state_saves for step in one.sent)


def test_lost_workers_take_all_states_with_them():
    one = driver()
    one.add(make_request("first", [1] * 11, max_tokens=3))
    one.answer()
    one.in_flight.clear()
    one.tell(WorkersLost())
    one.tell(WorkersReady())
    assert ints(one.sent[-1].state_slots)[0] == -1
    one.finish()
    assert len(one.tokens["first"]) == 3
