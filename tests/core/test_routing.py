import pytest

from shoal.core.routing import ReplicaLoad, choose_replica
from shoal.errors import CapacityError


def load(prefill: int = 0, decode: int = 0, **changes) -> ReplicaLoad:
    return ReplicaLoad(prefill_tokens=prefill, decode_tokens=decode, **changes)


def test_least_work_wins():
    assert choose_replica([load(100), load(50), load(80)]) == 1


def test_ties_go_to_the_lowest_index():
    assert choose_replica([load(7), load(5), load(5)]) == 1


def test_decode_tokens_weigh_more_than_prefill_tokens():
    assert choose_replica([load(decode=100), load(prefill=120)]) == 1
    assert choose_replica([load(decode=100), load(prefill=180)]) == 0


def test_faster_replica_may_have_more_to_do():
    assert choose_replica([load(100), load(150, relative_speed=2.0)]) == 1


def test_own_work_counts_between_unequal_idle_replicas():
    loads = [load(), load(relative_speed=3.0)]
    assert choose_replica(loads) == 0
    assert choose_replica(loads, prompt_tokens=10, output_tokens=5) == 1


def test_fenced_replica_is_never_chosen():
    assert choose_replica([load(is_fenced=True), load(10**9)]) == 1
    with pytest.raises(CapacityError, match="no replica"):
        choose_replica([load(is_fenced=True)])
