"""Requests with different adapters in the same steps and the same cache."""

from shoal.core.sequences.request import NO_ADAPTER
from tests.core.generation.scheduler_driver import Driver, ints, make_config, make_request, rows_per_sequence

PROMPT = [7, 8, 9, 10, 11, 12, 13, 14, 15]


def test_a_step_without_adapters_says_nothing_of_them():
    driver = Driver(make_config())
    driver.add(make_request("a"), make_request("b"))
    driver.finish()
    assert {step.adapters for step in driver.sent} == {b""}


def test_rows_of_one_adapter_lie_together_and_every_answer_finds_its_request():
    driver = Driver(make_config())
    prompts = {"a": 3, "b": 5, "c": 4, "d": 6, "e": 2}
    adapters = {"a": 1, "b": NO_ADAPTER, "c": 0, "d": 1, "e": 0}
    driver.add(*(make_request(name, prompt, max_tokens=3, adapter=adapters[name]) for name, prompt in prompts.items()))
    driver.finish()
    first = driver.sent[0]
    assert ints(first.adapters) == [-1, 0, 0, 1, 1]
    assert rows_per_sequence(first) == [5, 4, 2, 3, 6]
    assert {ints(step.adapters) == sorted(ints(step.adapters)) for step in driver.sent} == {True}
    assert {name: driver.finished[name].num_output_tokens for name in prompts} == dict.fromkeys(prompts, 3)


def test_what_an_adapter_has_cached_is_found_by_it_alone():
    driver = Driver(make_config(block_size=4))
    for number, adapter in enumerate((0, NO_ADAPTER, 1)):
        driver.add(make_request(f"first-{number}", prompt=PROMPT, max_tokens=2, adapter=adapter))
        driver.finish()
        driver.add(make_request(f"again-{number}", prompt=PROMPT, max_tokens=2, adapter=adapter))
        driver.finish()
        assert driver.finished[f"first-{number}"].num_cached_tokens == 0
        assert driver.finished[f"again-{number}"].num_cached_tokens == 8


def test_a_preempted_sequence_keeps_its_adapter():
    driver = Driver(make_config(block_size=4, num_blocks=5, max_context=16))
    driver.add(
        make_request("a", prompt=7, max_tokens=8, adapter=1), make_request("b", prompt=7, max_tokens=8, adapter=0)
    )
    driver.finish()
    assert driver.scheduler.stats().num_preemptions > 0
    assert {name: one.num_output_tokens for name, one in driver.finished.items()} == {"a": 8, "b": 8}
    assert {adapter for step in driver.sent for adapter in ints(step.adapters)} == {0, 1}
