"""Workers are lost and rebuilt; requests go on from where they were."""

from shoal.core.generation.events import RequestCancelled, StepCompleted, WorkersLost, WorkersReady
from shoal.core.sequences.request import RequestId
from tests.core.generation.scheduler_driver import Driver, ints, make_config, make_request


def test_requests_go_on_from_prompt_and_tokens_so_far():
    driver = Driver(make_config())
    driver.add(make_request("a", prompt=(1, 2, 3), max_tokens=5))
    driver.answer()
    driver.answer()
    driver.tell(WorkersLost())
    driver.in_flight.clear()
    driver.tell(WorkersReady())
    (again,) = driver.in_flight
    assert ints(again.token_ids) == [1, 2, 3, 100, 101]
    assert [(sample.row, sample.token_index) for sample in again.samples] == [(4, 2)]
    assert again.generation == driver.scheduler.generation == 1
    driver.finish()
    assert driver.tokens["a"] == [100, 101, 102, 103, 104]
    assert driver.finished["a"].num_prompt_tokens == 3


def test_nothing_is_sent_while_workers_are_lost():
    driver = Driver(make_config())
    driver.tell(WorkersLost())
    assert driver.add(make_request("a")) == []
    assert driver.scheduler.state.is_fenced
    driver.tell(WorkersReady())
    assert len(driver.in_flight) == 1
    assert not driver.scheduler.state.is_fenced


def test_late_results_of_lost_workers_are_not_believed():
    driver = Driver(make_config())
    driver.add(make_request("a"))
    late = driver.result(driver.in_flight.pop())
    driver.tell(WorkersLost(), WorkersReady())
    assert driver.tell(StepCompleted(result=late)) == []
    driver.finish()
    assert driver.tokens["a"] == [100, 101, 102, 103]


def test_prefix_index_dies_with_the_workers():
    driver = Driver(make_config(block_size=4))
    driver.add(make_request("a", prompt=range(9)))
    driver.finish()
    driver.tell(WorkersLost(), WorkersReady())
    driver.add(make_request("b", prompt=range(9)))
    driver.finish()
    assert driver.finished["b"].num_cached_tokens == 0


def test_order_of_arrival_survives():
    driver = Driver(make_config(max_seqs=2))
    driver.add(*(make_request(name) for name in "abcd"))
    driver.answer()
    driver.tell(WorkersLost())
    assert [s.request.request_id for s in driver.scheduler.state.waiting] == ["a", "b", "c", "d"]
    driver.in_flight.clear()
    driver.tell(WorkersReady())
    driver.finish()
    assert driver.tokens == {name: [100, 101, 102, 103] for name in "abcd"}


def test_cancelled_while_lost():
    driver = Driver(make_config())
    driver.add(make_request("a"))
    driver.tell(WorkersLost(), RequestCancelled(request_id=RequestId("a")))
    assert driver.finished["a"].reason == "cancelled"
    assert not driver.scheduler.has_unfinished
    assert driver.tell(WorkersReady()) == []


def test_lost_again_while_being_rebuilt():
    driver = Driver(make_config(generation=5))
    driver.add(make_request("a"))
    driver.tell(WorkersLost())
    driver.tell(WorkersLost())
    driver.in_flight.clear()
    driver.tell(WorkersReady())
    assert driver.in_flight[0].generation == 7
    driver.finish()
