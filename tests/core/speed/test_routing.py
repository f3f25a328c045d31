import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from shoal.core.speed.routing import (
    OUTPUT_WORK_TOKENS,
    ReplicaLoad,
    ReplicaSpeed,
    next_in_turn,
    parse_routing,
)
from shoal.core.speed.routing_table import RoutingTable
from shoal.errors import ConfigError
from tests.core.speed.plain_routing import choose_replica, scaled


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


FAST = ReplicaSpeed(prompt_token_s=0.002, output_step_s=0.01, output_row_s=0.002)


def test_faster_replica_may_have_more_to_do():
    assert choose_replica([load(100, speed=scaled(FAST, 2.0)), load(150, speed=FAST)]) == 1


def test_own_work_counts_between_unequal_idle_replicas():
    loads = [load(speed=scaled(FAST, 2.0)), load(prefill=1200, speed=FAST)]
    assert choose_replica(loads, prompt_tokens=10) == 0
    assert choose_replica(loads, prompt_tokens=800) == 1


def test_a_replica_that_may_not_be_chosen_never_is():
    assert choose_replica([load(), load(10**9)], among=[1]) == 1


def test_measured_seconds_are_compared():
    slow = scaled(FAST, 2.0)
    assert choose_replica([load(speed=slow), load(speed=FAST)], prompt_tokens=50) == 1
    assert choose_replica([load(speed=slow), load(decoding=4, speed=FAST)], prompt_tokens=50) == 1
    assert choose_replica([load(speed=slow), load(decoding=8, speed=FAST)], prompt_tokens=50) == 0
    assert choose_replica([load(speed=slow), load(prefill=2000, speed=FAST)], prompt_tokens=50) == 0


def test_what_differs_by_less_than_it_is_measured_to_counts_as_equally_fast():
    slightly_slower = ReplicaSpeed(prompt_token_s=0.0021, output_step_s=0.012, output_row_s=0.0021)
    assert choose_replica([load(speed=slightly_slower), load(speed=FAST)], prompt_tokens=500) == 0
    assert choose_replica([load(1, speed=slightly_slower), load(speed=FAST)], prompt_tokens=500) == 1
    clearly_slower = scaled(FAST, 1.3)
    assert choose_replica([load(speed=clearly_slower), load(1, speed=FAST)], prompt_tokens=500) == 1
    chain = [load(speed=scaled(FAST, factor)) for factor in (1.4, 1.2, 1.0)]
    assert choose_replica(chain) == 1


def test_a_replica_of_unknown_speed_is_tried_as_if_it_were_the_fastest():
    slow = scaled(FAST, 3.0)
    assert choose_replica([load(speed=slow), load(decoding=1, speed=FAST), load()]) == 2
    assert choose_replica([load(decoding=1, speed=slow), load(decoding=1, speed=FAST), load(decoding=2)]) == 1


def test_what_a_request_asks_for_decides_between_replicas_that_are_quick_at_different_things():
    quick_prompts = ReplicaSpeed(prompt_token_s=0.001, output_step_s=0.04, output_row_s=0.004)
    quick_outputs = ReplicaSpeed(prompt_token_s=0.004, output_step_s=0.01, output_row_s=0.001)
    loads = [load(speed=quick_prompts), load(speed=quick_outputs)]
    assert choose_replica(loads, prompt_tokens=500, output_tokens=1) == 0
    assert choose_replica(loads, prompt_tokens=500, output_tokens=500) == 1


def test_a_cached_prefix_is_worth_its_prefill():
    loads = [load(speed=FAST), load(decoding=2, speed=FAST)]
    assert choose_replica(loads, prompt_tokens=1000, cached_tokens=[0, 992]) == 1
    assert choose_replica(loads, prompt_tokens=1000, cached_tokens=[0, 16]) == 0
    assert choose_replica([load(), load(100)], prompt_tokens=1000, cached_tokens=[0, 992]) == 1


@pytest.mark.parametrize("trouble", ["is_slow", "is_overloaded"])
def test_a_cached_prefix_draws_no_request_to_a_replica_in_trouble(trouble: str):
    loads = [load(speed=FAST), load(speed=FAST, **{trouble: True})]
    assert choose_replica(loads, prompt_tokens=1000, cached_tokens=[0, 992]) == 0


def test_a_replica_in_trouble_still_gets_what_it_would_finish_first():
    assert choose_replica([load(decoding=20, speed=FAST), load(speed=FAST, is_slow=True)]) == 1


def test_round_robin_goes_on_with_the_next_one_that_is_there_and_begins_again():
    living = [0, 2, 5]
    assert [next_in_turn(living, previous) for previous in (-1, 0, 1, 2, 4, 5)] == [0, 1, 1, 2, 2, 0]


def test_rules_by_name():
    assert parse_routing("round-robin") == "round-robin"
    with pytest.raises(ConfigError, match="unknown routing 'random': use one of earliest-finish, round-robin"):
        parse_routing("random")


speeds = st.builds(
    ReplicaSpeed,
    prompt_token_s=st.floats(1e-5, 1.0),
    output_step_s=st.floats(0.0, 1.0),
    output_row_s=st.floats(0.0, 1.0),
)


@given(
    st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 64), st.none() | speeds), min_size=1, max_size=5),
    st.integers(1, 4000),
    st.data(),
)
def test_more_work_never_attracts(replicas: list, prompt_tokens: int, data: st.DataObject):
    loads = [load(prefill, decoding, speed=speed) for prefill, decoding, speed in replicas]
    chosen = choose_replica(loads, prompt_tokens=prompt_tokens)
    other = data.draw(st.integers(0, len(loads) - 1))
    if other != chosen:
        loads[other] = replace(loads[other], num_decoding=loads[other].num_decoding + data.draw(st.integers(0, 9)))
        assert choose_replica(loads, prompt_tokens=prompt_tokens) == chosen


def random_load(rng: random.Random, speeds: list[ReplicaSpeed]) -> ReplicaLoad:
    """Often like another, so that there are ties and replicas that are alike."""
    near = scaled(rng.choice(speeds), rng.choice((1.0, 1.0, rng.uniform(0.9, 1.4))))
    return load(
        rng.choice((0, 1, rng.randrange(6000))),
        rng.choice((0, 1, rng.randrange(40))),
        speed=rng.choice((None, near, near, near)),
        is_slow=rng.random() < 0.1,
        is_overloaded=rng.random() < 0.1,
    )


@pytest.mark.parametrize("seed", range(20))
def test_a_table_that_lives_on_chooses_as_a_look_at_every_replica_does(seed: int):
    """`choose_replica` compares both ways, here over a fleet whose loads change and which grows."""
    rng = random.Random(seed)
    usual = [scaled(FAST, rng.uniform(0.5, 4.0)) for _ in range(rng.randint(1, 6))]
    loads = [random_load(rng, usual) for _ in range(rng.randint(1, 120))]
    table, chosen = RoutingTable(), set[int]()
    for _ in range(60):
        for index in rng.choices(range(len(loads)), k=rng.randrange(4)):
            loads[index] = random_load(rng, usual)
        loads += [random_load(rng, usual)] * (rng.random() < 0.1)
        among = sorted(rng.sample(range(len(loads)), rng.randint(1, len(loads)))) if rng.random() < 0.3 else []
        cached = [rng.choice((0, 0, 0, rng.randrange(2000))) for _ in loads] if rng.random() < 0.5 else []
        chosen.add(
            choose_replica(
                loads,
                among=among,
                prompt_tokens=2000 + rng.randrange(2000),
                output_tokens=rng.choice((1, 64, 500)),
                cached_tokens=cached,
                table=table,
            )
        )
    assert len(chosen) > 1 or len(loads) < 9
