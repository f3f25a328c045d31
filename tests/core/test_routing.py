import pytest

from shoal.core.routing import OUTPUT_WORK_TOKENS, ReplicaLoad, choose_replica
from shoal.errors import CapacityError


def load(prefill: int = 0, decoding: int = 0, **changes) -> ReplicaLoad:
    return ReplicaLoad(prefill_tokens=prefill, num_decoding=decoding, **changes)


def test_least_work_wins():
    assert choose_replica([load(100), load(50), load(80)]) == 1


def test_ties_go_to_the_lowest_index():
    assert choose_replica([load(7), load(5), load(5)]) == 1


def test_a_sequence_weighs_as_much_as_the_outputs_expected_of_it():
    assert choose_replica([load(decoding=1), load(prefill=OUTPUT_WORK_TOKENS - 1)]) == 1
    assert choose_replica([load(decoding=1), load(prefill=OUTPUT_WORK_TOKENS + 1)]) == 0


def test_requests_that_come_together_go_to_the_replica_that_just_finished_its_own():
    busy, idle = load(decoding=8), load()
    assert choose_replica([busy, idle]) == 1
    assert choose_replica([busy, load(prefill=4 * 128, decoding=4)]) == 1


def test_faster_replica_may_have_more_to_do():
    assert choose_replica([load(100), load(150, relative_speed=2.0)]) == 1


def test_own_work_counts_between_unequal_idle_replicas():
    loads = [load(), load(prefill=300, relative_speed=2.0)]
    assert choose_replica(loads, prompt_tokens=10) == 0
    assert choose_replica(loads, prompt_tokens=200) == 1


def test_fenced_replica_is_never_chosen():
    assert choose_replica([load(is_fenced=True), load(10**9)]) == 1
    with pytest.raises(CapacityError, match="no replica"):
        choose_replica([load(is_fenced=True)])
