"""Targets: outputs that are given, not drawn, go through prefill."""

from shoal.core.generation.events import WorkersLost, WorkersReady
from shoal.protocol.language_messages import Sampling
from tests.core.generation.scheduler_driver import Driver, ints, make_config, make_request


def test_targets_are_one_chunk_with_the_prompt_and_have_many_sampled_rows():
    driver = Driver(make_config())
    driver.add(make_request("a", prompt=(1, 2, 3), max_tokens=4, targets=(7, 8, 9, 10), want_logits=True))
    driver.finish()
    (step,) = driver.sent
    assert ints(step.token_ids) == [1, 2, 3, 7, 8, 9]
    assert [(s.row, s.token_index, s.target, s.want_logits) for s in step.samples] == [
        (2, 0, 7, True),
        (3, 1, 8, True),
        (4, 2, 9, True),
        (5, 3, 10, True),
    ]
    assert driver.tokens["a"] == [7, 8, 9, 10]
    assert driver.finished["a"].reason == "length"


def test_targets_are_cut_into_chunks():
    driver = Driver(make_config(max_step_tokens=4, prefill_chunk_tokens=4))
    driver.add(make_request("a", prompt=3, max_tokens=8, targets=tuple(range(8))))
    driver.finish()
    assert [step.num_tokens for step in driver.sent] == [4, 4, 2]
    assert [[s.token_index for s in step.samples] for step in driver.sent] == [[0, 1], [2, 3, 4, 5], [6, 7]]
    assert driver.tokens["a"] == list(range(8))


def test_chunks_of_targets_fill_a_pipeline():
    driver = Driver(make_config(max_step_tokens=4, prefill_chunk_tokens=4, num_micro_batches=2))
    driver.add(make_request("a", prompt=3, max_tokens=8, targets=tuple(range(8))))
    assert len(driver.in_flight) == 2
    driver.finish()
    assert driver.tokens["a"] == list(range(8))


def test_stop_tokens_do_not_end_forced_outputs():
    driver = Driver(make_config())
    driver.add(make_request("a", max_tokens=3, targets=(5, 6, 7), stop_token_ids=frozenset({6})))
    driver.finish()
    assert driver.tokens["a"] == [5, 6, 7]


def test_history_of_forced_outputs_ends_before_the_row():
    driver = Driver(make_config())
    penalized = Sampling(frequency_penalty=1.0)
    driver.add(make_request("a", max_tokens=3, targets=(5, 6, 7), sampling=penalized))
    driver.finish()
    assert [ints(sample.history) for step in driver.sent for sample in step.samples] == [[], [5], [5, 6]]


def test_single_target():
    driver = Driver(make_config())
    driver.add(make_request("a", prompt=2, max_tokens=9, targets=(5,)))
    driver.finish()
    assert driver.tokens["a"] == [5]
    assert driver.finished["a"].num_output_tokens == 1


def test_sampled_rows_are_computed_even_where_their_blocks_are_cached():
    driver = Driver(make_config(block_size=2))
    for name in "ab":
        driver.add(make_request(name, prompt=(1, 2, 3, 4, 5), max_tokens=6, targets=(6, 7, 8, 9, 10, 11)))
        driver.finish()
    assert driver.finished["b"].num_cached_tokens == 4
    assert driver.tokens["b"] == [6, 7, 8, 9, 10, 11]


def test_forced_outputs_resume_after_a_loss():
    driver = Driver(make_config(max_step_tokens=4, prefill_chunk_tokens=4))
    driver.add(make_request("a", prompt=3, max_tokens=8, targets=tuple(range(8))))
    driver.answer()
    driver.answer()
    driver.tell(WorkersLost(), WorkersReady())
    driver.in_flight = driver.in_flight[-1:]
    driver.finish()
    assert driver.tokens["a"] == list(range(8))
