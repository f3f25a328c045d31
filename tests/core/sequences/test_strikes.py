"""A request that breaks workers is found, and nobody else suffers for it."""

from shoal.core.generation.events import (
    HandOver,
    RequestAdded,
    RequestCancelled,
    RequestWithdrawn,
    WorkersLost,
    WorkersReady,
)
from shoal.core.sequences.request import RequestId, RequestProgress
from tests.core.generation.scheduler_driver import Driver, ints, make_config, make_request


def lose(driver: Driver) -> None:
    driver.tell(WorkersLost(reason="killed by signal 11"))
    driver.in_flight.clear()


def test_the_third_loss_in_a_row_without_a_token_fails_the_request():
    driver = Driver(make_config())
    driver.add(make_request("poison"))
    for _ in range(2):
        lose(driver)
        assert not driver.finished
        driver.tell(WorkersReady())
    lose(driver)
    end = driver.finished["poison"]
    assert (end.reason, end.num_prompt_tokens, end.num_output_tokens) == ("error", 4, 0)
    assert "3 replicas in a row" in end.message
    assert end.message.endswith("last: killed by signal 11")
    assert not driver.scheduler.has_unfinished


def test_a_token_between_the_losses_clears_it():
    driver = Driver(make_config())
    driver.add(make_request("long", max_tokens=8))
    for _ in range(6):
        lose(driver)
        driver.tell(WorkersReady())
        while len(driver.tokens.get("long", ())) < 8 and not driver.in_flight[-1].samples:
            driver.answer()
        driver.answer()
    driver.finish()
    assert driver.tokens["long"] == list(range(100, 108))


def test_requests_that_were_not_in_flight_are_not_blamed():
    driver = Driver(make_config(max_seqs=1))
    driver.add(make_request("runs"), make_request("waits"))
    for _ in range(3):
        lose(driver)
        driver.tell(WorkersReady())
    driver.finish()
    assert driver.finished["runs"].reason == "error"
    assert driver.finished["waits"].reason == "length"


def test_workers_stopped_on_purpose_are_nobodys_fault():
    driver = Driver(make_config())
    driver.add(make_request("a"))
    for _ in range(5):
        driver.tell(WorkersLost(on_purpose=True))
        driver.in_flight.clear()
        driver.tell(WorkersReady())
    driver.finish()
    assert driver.tokens["a"] == [100, 101, 102, 103]


def test_a_suspect_is_tried_alone_and_those_that_run_pause_meanwhile():
    driver = Driver(make_config(prefill_chunk_tokens=4))
    driver.add(make_request("a", max_tokens=9))
    driver.answer()
    progress = RequestProgress(outputs=(), num_cached_tokens=None, added_s=0.0, num_losses=2)
    driver.tell(RequestAdded(request=make_request("suspect", prompt=6), progress=progress))
    driver.add(make_request("late"))
    driver.answer()
    (trial,) = driver.in_flight
    assert (trial.num_sequences, trial.num_tokens) == (1, 4)
    driver.answer()
    (trial,) = driver.in_flight
    assert (trial.num_sequences, ints(trial.positions)) == (1, [4, 5])
    driver.answer()
    assert driver.tokens["suspect"] == [100]
    (step,) = driver.in_flight
    assert step.num_sequences == 3
    driver.finish()
    assert {len(tokens) for tokens in driver.tokens.values()} == {9, 4}


def test_a_trial_takes_the_place_and_the_memory_of_the_youngest():
    driver = Driver(make_config(max_seqs=2, num_blocks=6))
    driver.add(make_request("a", prompt=7), make_request("b", prompt=7))
    driver.answer()
    progress = RequestProgress(outputs=(), num_cached_tokens=None, added_s=0.0, num_losses=2)
    driver.tell(RequestAdded(request=make_request("suspect", prompt=8), progress=progress))
    driver.answer()
    (trial,) = driver.in_flight
    assert (trial.num_sequences, trial.num_tokens) == (1, 8)
    assert driver.scheduler.stats().num_preemptions == 1
    driver.finish()
    assert {end.reason for end in driver.finished.values()} == {"length"}


def test_a_suspect_that_is_cancelled_holds_nobody_up():
    driver = Driver(make_config())
    progress = RequestProgress(outputs=(), num_cached_tokens=None, added_s=0.0, num_losses=2)
    driver.tell(RequestAdded(request=make_request("suspect"), progress=progress))
    driver.add(make_request("a"))
    assert driver.in_flight[0].num_sequences == 1
    driver.tell(RequestCancelled(request_id=RequestId("suspect")))
    driver.finish()
    assert driver.tokens["a"] == [100, 101, 102, 103]


def test_what_has_been_produced_goes_with_a_request_to_another_scheduler():
    first, second = Driver(make_config()), Driver(make_config())
    request = make_request("a", prompt=(1, 2, 3), max_tokens=5)
    first.add(request)
    first.answer()
    first.answer()
    first.tell(WorkersLost())
    (effect,) = first.tell(RequestWithdrawn(request_id=RequestId("a")), RequestWithdrawn(request_id=RequestId("b")))
    assert isinstance(effect, HandOver)
    assert effect.progress == RequestProgress(outputs=(100, 101), num_cached_tokens=0, added_s=0.0, num_losses=1)
    assert not first.scheduler.has_unfinished
    second.tell(RequestAdded(request=effect.request, progress=effect.progress), now_s=7.0)
    second.finish()
    assert second.tokens["a"] == [102, 103, 104]
    end = second.finished["a"]
    assert (end.num_prompt_tokens, end.num_output_tokens, end.reason) == (3, 5, "length")


def test_forced_outputs_and_cached_tokens_are_counted_on():
    first, second = Driver(make_config(prefill_chunk_tokens=3)), Driver(make_config())
    first.add(make_request("cached", prompt=range(9), max_tokens=1))
    first.finish()
    first.add(make_request("a", prompt=range(9), max_tokens=5, targets=(7, 8, 9, 10, 11)))
    while len(first.tokens.get("a", ())) < 1:
        first.answer()
    first.tell(WorkersLost())
    (effect,) = first.tell(RequestWithdrawn(request_id=RequestId("a")))
    assert isinstance(effect, HandOver)
    second.tell(RequestAdded(request=effect.request, progress=effect.progress))
    second.finish()
    assert first.tokens["a"] + second.tokens["a"] == [7, 8, 9, 10, 11]
    assert second.finished["a"].num_cached_tokens == 8
    assert second.finished["a"].num_output_tokens == 5


def test_a_request_that_moves_is_as_old_as_it_was():
    driver = Driver(make_config(max_seqs=1))
    driver.tell(RequestAdded(request=make_request("young")), RequestAdded(request=make_request("younger")), now_s=5.0)
    progress = RequestProgress(outputs=(100,), num_cached_tokens=0, added_s=1.0, num_losses=0)
    driver.tell(RequestAdded(request=make_request("old"), progress=progress), now_s=6.0)
    assert [one.request.request_id for one in driver.scheduler.state.waiting] == ["old", "younger"]
    driver.finish()


def test_where_there_is_less_room_it_ends_with_what_it_has():
    driver = Driver(make_config(max_context=8))
    progress = RequestProgress(outputs=(100, 101, 102, 103), num_cached_tokens=0, added_s=0.0, num_losses=0)
    driver.tell(RequestAdded(request=make_request("a", max_tokens=20), progress=progress))
    assert driver.finished["a"].reason == "length"
    assert driver.finished["a"].num_output_tokens == 4


def test_replays_are_counted():
    driver = Driver(make_config(max_seqs=1))
    driver.add(make_request("a"), make_request("b"))
    driver.answer()
    driver.answer()
    driver.tell(WorkersLost())
    stats = driver.scheduler.stats()
    assert (stats.num_replays, stats.replayed_tokens) == (1, 5)
