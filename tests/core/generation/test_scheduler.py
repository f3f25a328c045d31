"""The life of a request that nothing disturbs."""

import pytest

from shoal.core.generation.events import SendStep, StepCompleted
from shoal.core.generation.scheduler_config import check_request, output_limit
from shoal.core.kv.prefix_index import reusable_digests
from shoal.core.sequences.request import RequestFinished
from shoal.errors import CapacityError, ConfigError, InvalidRequest, RemoteProtocolError
from shoal.protocol.language_messages import NO_TOKEN, SampledToken, SampleRow, Sampling, StepResult
from tests.core.generation.scheduler_driver import (
    Driver,
    block_tables,
    ints,
    make_config,
    make_request,
    next_token,
    rows_per_sequence,
)


def test_prompt_is_one_step_then_one_row_a_token():
    driver = Driver(make_config())
    driver.add(make_request("a", prompt=(7, 8, 9, 10, 11), max_tokens=3))
    driver.finish()
    assert [ints(step.token_ids) for step in driver.sent] == [[7, 8, 9, 10, 11], [100], [101]]
    assert [ints(step.positions) for step in driver.sent] == [[0, 1, 2, 3, 4], [5], [6]]
    assert [ints(step.context_lens) for step in driver.sent] == [[5], [6], [7]]
    assert [[(s.row, s.token_index) for s in step.samples] for step in driver.sent] == [[(4, 0)], [(0, 1)], [(0, 2)]]
    assert driver.tokens == {"a": [100, 101, 102]}
    assert driver.finished["a"].reason == "length"
    assert driver.finished["a"].num_output_tokens == 3


def test_steps_are_the_first_effects():
    driver = Driver(make_config())
    driver.add(make_request("a"))
    kinds = [isinstance(effect, SendStep) for effect in driver.answer()]
    assert kinds == [True, False]


def test_block_table_grows_with_the_sequence():
    driver = Driver(make_config(block_size=4))
    driver.add(make_request("a", prompt=4, max_tokens=6))
    driver.finish()
    assert [len(block_tables(step)[0]) for step in driver.sent] == [1, 2, 2, 2, 2, 3]


def test_shorter_tables_are_padded():
    driver = Driver(make_config(block_size=4))
    driver.add(make_request("a", prompt=9), make_request("b", prompt=3))
    (step,) = driver.sent
    values = ints(step.block_tables)
    assert len(values) == 6
    assert values[4:] == [-1, -1]


@pytest.mark.parametrize("num_micro_batches", [1, 2])
@pytest.mark.parametrize("broken_index", [0, 2])
def test_a_row_that_is_no_number_ends_its_request_alone(broken_index: int, num_micro_batches: int):
    def draw(sample: SampleRow) -> int:
        is_broken = sample.sampling.seed == 1 and sample.token_index == broken_index
        return NO_TOKEN if is_broken else next_token(sample)

    driver = Driver(make_config(num_micro_batches=num_micro_batches), draw)
    driver.add(make_request("a", max_tokens=5, sampling=Sampling(seed=1)), make_request("b", max_tokens=5))
    driver.finish()
    assert driver.finished["a"].reason == "error"
    assert "no numbers" in driver.finished["a"].message
    assert driver.tokens.get("a", []) == [100 + index for index in range(broken_index)]
    assert driver.finished["a"].num_output_tokens == broken_index
    assert driver.tokens["b"] == [100, 101, 102, 103, 104]
    assert driver.scheduler.stats().kv_usage == 0.0


def test_stop_token_ends_and_is_reported():
    driver = Driver(make_config())
    driver.add(make_request("a", max_tokens=10, stop_token_ids=frozenset({102})))
    driver.finish()
    assert driver.tokens["a"] == [100, 101, 102]
    assert driver.finished["a"].reason == "stop"


def test_stop_token_at_the_limit_counts_as_stop():
    driver = Driver(make_config())
    driver.add(make_request("a", max_tokens=2, stop_token_ids=frozenset({101})))
    driver.finish()
    assert driver.finished["a"].reason == "stop"


def test_new_requests_join_running_ones_in_one_flat_batch():
    driver = Driver(make_config())
    driver.add(make_request("a", prompt=5))
    driver.add(make_request("b", prompt=6))
    driver.answer()
    assert rows_per_sequence(driver.sent[1]) == [1, 6]
    assert [sample.row for sample in driver.sent[1].samples] == [0, 6]
    driver.finish()
    assert driver.tokens == {"a": [100, 101, 102, 103], "b": [100, 101, 102, 103]}


def test_history_travels_only_with_penalties():
    driver = Driver(make_config())
    penalized = Sampling(presence_penalty=0.5)
    driver.add(make_request("a", sampling=penalized, max_tokens=3), make_request("b", max_tokens=3))
    driver.finish()
    histories = [[ints(sample.history) for sample in step.samples] for step in driver.sent]
    assert histories == [[[], []], [[100], []], [[100, 101], []]]


def test_repeated_tokens_are_of_prompt_and_output_or_of_the_latest():
    driver = Driver(make_config())
    whole, latest = Sampling(repetition_penalty=1.5), Sampling(repetition_penalty=1.5, repetition_window=2)
    prompt = (9, 4, 9, 6)
    driver.add(
        make_request("a", prompt, sampling=whole, max_tokens=2),
        make_request("b", prompt, sampling=latest, max_tokens=2),
    )
    driver.finish()
    repeated = [[ints(sample.repeated) for sample in step.samples] for step in driver.sent]
    assert repeated == [[[4, 6, 9], [6, 9]], [[4, 6, 9, 100], [6, 100]]]


def test_stop_tokens_are_forbidden_until_there_are_enough_tokens():
    driver = Driver(make_config())
    driver.add(make_request("a", max_tokens=4, min_tokens=2, stop_token_ids=frozenset({7, 3})))
    driver.finish()
    assert [step.samples[0].forbidden for step in driver.sent] == [(3, 7), (3, 7), (), ()]


def test_max_tokens_is_clipped_to_the_context():
    driver = Driver(make_config(max_context=10))
    driver.add(make_request("a", prompt=7, max_tokens=100))
    driver.finish()
    assert driver.finished["a"].reason == "length"
    assert driver.finished["a"].num_output_tokens == 3


def test_max_tokens_is_clipped_to_kv_memory():
    config = make_config(num_blocks=2, block_size=4)
    driver = Driver(config)
    request = make_request("a", prompt=5, max_tokens=100)
    assert output_limit(config, request) == 4
    driver.add(request)
    driver.finish()
    assert driver.finished["a"].num_output_tokens == 4


@pytest.mark.parametrize(
    ("request_", "error", "says"),
    [
        (make_request("a", prompt=()), InvalidRequest, "empty"),
        (make_request("a", max_tokens=0), InvalidRequest, "max_tokens is 0"),
        (make_request("a", prompt=64), InvalidRequest, "64 tokens"),
        (make_request("a", prompt=60, max_tokens=5, targets=(1, 2, 3, 4, 5)), InvalidRequest, "context holds 64"),
        (make_request("a", prompt=4, max_tokens=1, targets=(1, 2)), InvalidRequest, "targets"),
        (make_request("a", prompt=33), CapacityError, "room for 32"),
    ],
)
def test_impossible_requests_are_refused(request_, error, says):
    config = make_config(max_context=64, num_blocks=8, block_size=4)
    with pytest.raises(error, match=says):
        check_request(config, request_)
    driver = Driver(config)
    effects = driver.add(request_)
    assert [type(effect) for effect in effects] == [RequestFinished]
    assert driver.finished["a"].reason == "error"
    assert says in driver.finished["a"].message


def test_longest_possible_prompts_are_accepted():
    check_request(make_config(max_context=64, num_blocks=16), make_request("a", prompt=63))
    check_request(make_config(max_context=64, num_blocks=8), make_request("a", prompt=32))


@pytest.mark.parametrize("changes", [{"block_size": 0}, {"num_micro_batches": 0}, {"prefill_chunk_tokens": 65}])
def test_impossible_limits_are_refused(changes):
    with pytest.raises(ConfigError, match=next(iter(changes))):
        make_config(**changes)


def test_wrong_number_of_answers_is_refused_and_changes_nothing():
    driver = Driver(make_config())
    driver.add(make_request("a"))
    (step,) = driver.in_flight
    two = StepResult(step_id=step.step_id, generation=step.generation, tokens=(SampledToken(token_id=1),) * 2)
    with pytest.raises(RemoteProtocolError, match="asked for 1"):
        driver.tell(StepCompleted(result=two))
    driver.finish()
    assert driver.tokens["a"] == [100, 101, 102, 103]


def test_answers_out_of_order_are_refused():
    driver = Driver(make_config(num_micro_batches=2))
    driver.add(make_request("a"), make_request("b"))
    with pytest.raises(RemoteProtocolError, match="out of order"):
        driver.tell(StepCompleted(result=driver.result(driver.in_flight[1])))


def test_repeated_answer_is_ignored():
    driver = Driver(make_config())
    driver.add(make_request("a"))
    first = driver.result(driver.in_flight[0])
    driver.answer()
    assert driver.tell(StepCompleted(result=first)) == []
    driver.finish()
    assert driver.tokens["a"] == [100, 101, 102, 103]


def test_stats_and_load_follow_the_work():
    driver = Driver(make_config(max_seqs=1, block_size=4, num_blocks=10))
    driver.tell(now_s=1.0)
    driver.add(make_request("a", prompt=8, max_tokens=4))
    driver.add(make_request("b", prompt=5, max_tokens=1))
    stats = driver.scheduler.stats()
    assert (stats.num_running, stats.num_waiting, stats.num_in_flight) == (1, 1, 1)
    assert (stats.num_free_blocks, stats.kv_usage) == (8, pytest.approx(0.2))
    load = driver.scheduler.load()
    assert (load.prefill_tokens, load.num_decoding) == (13, 2)
    driver.answer()
    load = driver.scheduler.load()
    assert (load.prefill_tokens, load.num_decoding) == (1 + 5, 2)
    driver.finish()
    load = driver.scheduler.load()
    assert (load.prefill_tokens, load.num_decoding) == (0, 0)


def test_looking_up_a_prefix_changes_nothing_and_finds_what_admission_would():
    driver = Driver(make_config(block_size=4))
    prompt = [7, 8, 9, 10, 11, 12, 13, 14, 15]
    driver.add(make_request("a", prompt=prompt, max_tokens=2))
    driver.finish()
    digests = reusable_digests(prompt, 4)
    before = driver.scheduler.stats()
    assert driver.scheduler.cached_tokens(digests) == 8
    assert driver.scheduler.cached_tokens(reusable_digests(prompt[:8], 4)) == 4, "its last row is always computed"
    assert driver.scheduler.cached_tokens(reusable_digests([1, *prompt], 4)) == 0
    assert driver.scheduler.stats() == before
    driver.add(make_request("b", prompt=prompt, max_tokens=1))
    driver.finish()
    assert driver.finished["b"].num_cached_tokens == 8


def test_a_replica_is_overloaded_where_requests_wait_for_a_place_or_for_memory():
    driver = Driver(make_config(max_seqs=2, block_size=4, num_blocks=64, prefill_chunk_tokens=4))
    driver.add(make_request("a", prompt=8))
    driver.add(make_request("b", prompt=8))
    driver.tell()
    assert not driver.scheduler.load().is_overloaded, "b only waits for its turn"
    while driver.scheduler.stats().num_running < 2:
        driver.answer()
    driver.add(make_request("c"))
    driver.tell()
    assert driver.scheduler.load().is_overloaded
    small = Driver(make_config(block_size=4, num_blocks=3))
    small.add(make_request("a", prompt=8))
    small.add(make_request("b", prompt=8))
    small.tell()
    assert small.scheduler.load().is_overloaded
