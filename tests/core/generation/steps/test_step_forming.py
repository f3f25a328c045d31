"""How steps are filled: chunks, budgets and equal micro-batches."""

import pytest

from shoal.core.generation.events import RequestAdded
from shoal.core.generation.steps.micro_batches import decode_share, prefill_share
from shoal.core.sequences.request import RequestProgress
from tests.core.generation.scheduler_driver import Driver, ints, make_config, make_request, rows_per_sequence


def test_decode_share_is_an_equal_part_rounded_up():
    assert [decode_share(n, 2) for n in (0, 1, 2, 15, 16)] == [0, 1, 1, 8, 8]
    assert decode_share(7, 1) == 7


def test_prefill_share_counts_what_is_in_flight_as_dealt():
    assert prefill_share(2048, 0, 2, 16) == 1024
    assert prefill_share(100, 100, 2, 16) == 100
    assert prefill_share(10, 0, 2, 16) == 16


def test_long_prompt_is_cut_into_chunks():
    driver = Driver(make_config(prefill_chunk_tokens=10, max_step_tokens=12))
    driver.add(make_request("a", prompt=25, max_tokens=2))
    driver.finish()
    assert [step.num_tokens for step in driver.sent] == [10, 10, 5, 1]
    assert [len(step.samples) for step in driver.sent] == [0, 0, 1, 1]
    assert ints(driver.sent[1].positions) == list(range(10, 20))


def test_decode_rows_come_first_and_leave_the_rest_to_prefill():
    driver = Driver(make_config(max_step_tokens=10, prefill_chunk_tokens=10))
    driver.add(make_request("a", prompt=3), make_request("b", prompt=3))
    driver.add(make_request("c", prompt=20))
    driver.answer()
    assert rows_per_sequence(driver.sent[1]) == [1, 1, 8]


def test_prompts_are_served_in_order_of_arrival():
    driver = Driver(make_config(prefill_chunk_tokens=6, max_step_tokens=6))
    driver.add(make_request("a", prompt=8), make_request("b", prompt=4))
    driver.answer()
    assert rows_per_sequence(driver.sent[0]) == [6]
    assert rows_per_sequence(driver.sent[1]) == [2, 4]


def test_requests_that_are_computed_again_go_like_prompts_their_outputs_behind():
    driver = Driver(make_config())
    progress = RequestProgress(outputs=(100, 101), num_cached_tokens=0, added_s=0.0, num_losses=0)
    moved = [RequestAdded(request=make_request(name, prompt=5), progress=progress) for name in "abc"]
    driver.tell(*moved, RequestAdded(request=make_request("d", prompt=4)))
    driver.finish()
    again = driver.sent[0]
    assert rows_per_sequence(again) == [7, 7, 7, 4]
    assert [sample.token_index for sample in again.samples] == [2, 2, 2, 0]
    assert driver.tokens == {name: [102, 103] for name in "abc"} | {"d": [100, 101, 102, 103]}


def test_tiny_budget_serves_everybody():
    driver = Driver(make_config(max_step_tokens=2, prefill_chunk_tokens=2))
    driver.add(*(make_request(name, prompt=1, max_tokens=3) for name in "abc"))
    driver.finish()
    assert driver.tokens == {name: [100, 101, 102] for name in "abc"}
    assert max(step.num_tokens for step in driver.sent) == 2


def test_stages_take_turns_with_all_decoding_sequences():
    driver = Driver(make_config(num_micro_batches=2))
    driver.add(*(make_request(name, prompt=1, max_tokens=9) for name in "abcde"))
    for _ in range(12):
        driver.answer()
    received = [len(tokens) for tokens in driver.tokens.values()]
    assert max(received) - min(received) <= 1


def test_no_more_than_max_seqs_run():
    driver = Driver(make_config(max_seqs=2))
    driver.add(*(make_request(name) for name in "abcd"))
    assert driver.sent[0].num_sequences == 2
    assert driver.scheduler.stats().num_waiting == 2
    driver.finish()
    assert sorted(driver.finished) == ["a", "b", "c", "d"]


def test_burst_of_prompts_is_dealt_evenly_over_two_stages():
    driver = Driver(
        make_config(
            max_seqs=16,
            num_micro_batches=2,
            num_blocks=1000,
            max_context=256,
            max_step_tokens=2048,
            prefill_chunk_tokens=2048,
        )
    )
    driver.add(*(make_request(f"r{i}", prompt=128) for i in range(16)))
    assert [step.num_tokens for step in driver.sent] == [1024, 1024]


def test_burst_larger_than_the_budget_fills_every_step_equally():
    driver = Driver(
        make_config(
            max_seqs=16,
            num_micro_batches=2,
            num_blocks=1000,
            max_context=256,
            max_step_tokens=512,
            prefill_chunk_tokens=512,
        )
    )
    driver.add(*(make_request(f"r{i}", prompt=128, max_tokens=8) for i in range(16)))
    driver.answer()
    driver.answer()
    assert [step.num_tokens for step in driver.sent] == [512] * 4
    driver.finish()
    assert [step.num_tokens for step in driver.sent[5:16]] == [8] * 11


def test_one_long_prompt_fills_the_pipeline():
    driver = Driver(make_config(num_micro_batches=2))
    driver.add(make_request("a", prompt=40, max_tokens=2))
    first, second = driver.in_flight
    assert (first.num_tokens, second.num_tokens) == (20, 20)
    assert ints(second.positions)[0] == 20
    assert (len(first.samples), len(second.samples)) == (0, 1)
    driver.finish()
    assert driver.tokens["a"] == [100, 101]


def test_unknown_token_is_never_sent():
    driver = Driver(make_config(num_micro_batches=3))
    driver.add(make_request("a", prompt=2, max_tokens=5))
    while driver.in_flight:
        assert len(driver.in_flight) == 1
        driver.answer()


@pytest.mark.parametrize("num_micro_batches", [2, 3])
def test_uneven_groups_even_out(num_micro_batches):
    driver = Driver(make_config(num_micro_batches=num_micro_batches, max_seqs=16, num_blocks=200))
    short = [make_request(f"s{i}", prompt=1, max_tokens=3) for i in range(6)]
    long = [make_request(f"l{i}", prompt=1, max_tokens=30) for i in range(6)]
    driver.add(*short, *long)
    while len(driver.finished) < 6:
        driver.answer()
    for _ in range(2 * num_micro_batches):
        driver.answer()
    assert {step.num_tokens for step in driver.in_flight} == {6 // num_micro_batches}
