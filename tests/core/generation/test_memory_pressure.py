"""Prefix reuse, admission and preemption: who gets KV blocks when there are few."""

from shoal.core.generation.events import RequestCancelled, StepCompleted
from shoal.core.generation.waiting_queue import MAX_OVERTAKES
from shoal.core.sequences.request import RequestId
from shoal.sim.invariants import check_state
from tests.core.generation.scheduler_driver import (
    Driver,
    block_tables,
    ints,
    make_config,
    make_request,
    rows_per_sequence,
)


def test_second_request_reuses_full_blocks_of_a_common_prefix():
    driver = Driver(make_config(block_size=4))
    common = tuple(range(10))
    driver.add(make_request("a", prompt=(*common, 50)))
    driver.finish()
    driver.add(make_request("b", prompt=(*common, 60)))
    step = driver.in_flight[0]
    assert ints(step.positions) == [8, 9, 10]
    assert block_tables(step)[0][:2] == block_tables(driver.sent[0])[0][:2]
    driver.finish()
    assert driver.finished["b"].num_cached_tokens == 8
    assert driver.finished["a"].num_cached_tokens == 0
    stats = driver.scheduler.stats()
    assert (stats.prefix_query_tokens, stats.prefix_hit_tokens) == (22, 8)


def test_last_prompt_token_is_always_computed():
    driver = Driver(make_config(block_size=4))
    for name in "ab":
        driver.add(make_request(name, prompt=range(8)))
        driver.finish()
    assert driver.finished["b"].num_cached_tokens == 4
    assert driver.tokens["b"] == driver.tokens["a"]


def test_the_next_turn_of_a_chat_reuses_the_prompt_and_the_answer():
    """All but the last token of the answer, which was never fed to the model."""
    driver = Driver(make_config(block_size=4))
    driver.add(make_request("a", prompt=range(1, 9), max_tokens=8))
    driver.finish()
    second_turn = (*range(1, 9), *driver.tokens["a"], 50)
    driver.add(make_request("b", prompt=second_turn))
    assert ints(driver.in_flight[0].positions) == list(range(12, 17))
    driver.finish()
    assert driver.finished["b"].num_cached_tokens == 12
    driver.add(make_request("c", prompt=(*second_turn, *driver.tokens["b"], 60)))
    assert ints(driver.in_flight[0].positions)[0] == (17 + len(driver.tokens["b"]) - 1) // 4 * 4


def test_a_preempted_request_finds_its_own_outputs_again():
    driver = Driver(make_config(block_size=2, num_blocks=8, max_context=14))
    driver.add(make_request("old", prompt=4, max_tokens=8))
    driver.add(make_request("young", prompt=2, max_tokens=8))
    driver.finish()
    assert driver.scheduler.stats().num_preemptions > 0
    (replay,) = (step for step in driver.sent if rows_per_sequence(step) == [3])
    assert ints(replay.positions)[0] == 4, "its prompt and two of its outputs were found"
    assert len(driver.tokens["young"]) == 8


def test_blocks_are_not_shared_before_they_are_computed():
    driver = Driver(make_config(block_size=4, num_micro_batches=2, prefill_chunk_tokens=9))
    driver.add(make_request("a", prompt=range(9)), make_request("b", prompt=range(9)))
    first, second = driver.in_flight
    assert rows_per_sequence(first) == rows_per_sequence(second) == [9]
    assert not set(block_tables(first)[0]) & set(block_tables(second)[0])


def test_blocks_enter_the_index_with_the_answer_not_before():
    driver = Driver(make_config(block_size=4, num_micro_batches=2))
    driver.add(make_request("a", prompt=range(16)))
    assert [step.num_tokens for step in driver.in_flight] == [8, 8]
    index = driver.scheduler.state.kv.blocks.index
    assert index.num_cached == 0
    driver.answer()
    assert index.num_cached == 2
    driver.answer()
    assert index.num_cached == 4


def test_running_sequences_share_a_prefix():
    driver = Driver(make_config(block_size=4))
    driver.add(make_request("a", prompt=range(9), max_tokens=20))
    driver.answer()
    driver.add(make_request("b", prompt=range(9), max_tokens=20))
    driver.answer()
    one, two = block_tables(driver.in_flight[0])
    assert one[:2] == two[:2]
    assert one[2] != two[2]
    check_state(driver.scheduler.state)


def test_cached_blocks_make_room_for_new_prompts():
    driver = Driver(make_config(block_size=4, num_blocks=4, max_context=17))
    driver.add(make_request("a", prompt=12, max_tokens=1))
    driver.finish()
    driver.add(make_request("b", prompt=16, max_tokens=1))
    driver.finish()
    assert driver.finished["b"].reason == "length"
    assert driver.scheduler.stats().num_free_blocks == 4


def test_youngest_is_preempted_and_resumes_without_losing_a_token():
    driver = Driver(make_config(block_size=2, num_blocks=8, max_context=17))
    driver.add(make_request("old", prompt=4, max_tokens=10), make_request("young", prompt=4, max_tokens=10))
    driver.finish()
    assert driver.scheduler.stats().num_preemptions >= 1
    expected = [100 + i for i in range(10)]
    assert driver.tokens == {"old": expected, "young": expected}
    resumed = [step for step in driver.sent[1:] if max(rows_per_sequence(step)) > 1]
    assert all(step.num_sequences == 1 for step in resumed), "only the young one is recomputed"
    assert list(driver.finished) == ["old", "young"]


def test_sequence_in_flight_is_not_preempted():
    driver = Driver(make_config(block_size=1, num_blocks=8, max_context=9, num_micro_batches=2))
    driver.add(make_request("old", prompt=2, max_tokens=7), make_request("young", prompt=2, max_tokens=7))
    while driver.in_flight:
        check_state(driver.scheduler.state)
        driver.answer()
    assert driver.scheduler.stats().num_preemptions >= 1
    assert driver.tokens["old"] == driver.tokens["young"] == [100 + i for i in range(7)]


def test_newcomer_leaves_a_block_for_each_running_sequence():
    driver = Driver(make_config(block_size=4, num_blocks=5, max_context=20))
    driver.add(make_request("a", prompt=8, max_tokens=8))
    driver.add(make_request("b", prompt=8, max_tokens=2))
    driver.answer()
    stats = driver.scheduler.stats()
    assert (stats.num_free_blocks, stats.num_waiting) == (2, 1), "b needs 2 blocks, but one is kept for a"
    driver.finish()
    assert driver.scheduler.stats().num_preemptions == 0


def test_small_requests_pass_a_big_one_only_so_often():
    driver = Driver(make_config(block_size=1, num_blocks=40, max_context=41, max_seqs=4))
    driver.add(make_request("running", prompt=20, max_tokens=20))
    driver.add(make_request("big", prompt=30, max_tokens=1))
    driver.add(*(make_request(f"small{i}", prompt=1, max_tokens=1) for i in range(2 * MAX_OVERTAKES)))
    driver.finish()
    order = list(driver.finished)
    assert order.index("big") == MAX_OVERTAKES + 1
    assert order[MAX_OVERTAKES] == "running"


def test_nobody_passes_a_preempted_sequence():
    driver = Driver(make_config(block_size=1, num_blocks=12, max_context=13))
    driver.add(make_request("old", prompt=3, max_tokens=10), make_request("young", prompt=5, max_tokens=4))
    while not driver.scheduler.stats().num_preemptions:
        driver.answer()
    driver.add(make_request("late", prompt=1, max_tokens=4))
    driver.finish()
    assert list(driver.finished) == ["old", "young", "late"]


def test_preempted_sequence_waits_before_younger_ones():
    driver = Driver(make_config(block_size=1, num_blocks=12, max_context=13, max_seqs=2))
    driver.add(make_request("old", prompt=3, max_tokens=10), make_request("young", prompt=5, max_tokens=4))
    driver.add(make_request("younger", prompt=1, max_tokens=3), make_request("youngest", prompt=1, max_tokens=3))
    driver.finish()
    assert driver.scheduler.stats().num_preemptions == 1
    assert list(driver.finished) == ["old", "young", "younger", "youngest"]


def test_cancelled_while_waiting_is_gone_at_once():
    driver = Driver(make_config(max_seqs=1))
    driver.add(make_request("a"), make_request("b"))
    driver.tell(RequestCancelled(request_id=RequestId("b")))
    assert driver.finished["b"].reason == "cancelled"
    driver.finish()
    assert list(driver.finished) == ["b", "a"]


def test_cancelled_in_flight_ends_at_once_and_frees_its_blocks_with_the_answer():
    driver = Driver(make_config(num_blocks=10))
    driver.add(make_request("a", prompt=8))
    driver.tell(RequestCancelled(request_id=RequestId("a")))
    assert driver.finished["a"].reason == "cancelled"
    assert driver.scheduler.stats().num_free_blocks == 8
    driver.answer()
    assert driver.scheduler.stats().num_free_blocks == 10
    assert driver.tokens == {}
    assert not driver.scheduler.has_unfinished


def test_cancelled_with_two_chunks_in_flight_frees_its_blocks_once():
    driver = Driver(make_config(num_blocks=10, num_micro_batches=2))
    driver.add(make_request("a", prompt=40))
    driver.tell(RequestCancelled(request_id=RequestId("a")))
    driver.answer()
    assert driver.scheduler.stats().num_free_blocks == 0
    driver.answer()
    assert driver.scheduler.stats().num_free_blocks == 10


def test_cancelled_between_steps_frees_its_blocks_at_once():
    driver = Driver(make_config(num_blocks=10))
    driver.add(make_request("a", prompt=8))
    answer = StepCompleted(result=driver.result(driver.in_flight.pop()))
    driver.tell(answer, RequestCancelled(request_id=RequestId("a")))
    assert driver.in_flight == []
    assert driver.scheduler.stats().num_free_blocks == 10
    assert driver.tokens["a"] == [100]
    assert driver.finished["a"].num_output_tokens == 1


def test_cancelling_twice_or_after_the_end_is_nothing():
    driver = Driver(make_config())
    driver.add(make_request("a"))
    driver.finish()
    assert driver.tell(RequestCancelled(request_id=RequestId("a"))) == []
    assert driver.tell(RequestCancelled(request_id=RequestId("never"))) == []
