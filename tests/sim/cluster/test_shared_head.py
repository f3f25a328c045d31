"""Cores that workers share with the head: nobody loses time that is not taken, and what is taken is taken once."""

import pytest

from shoal.planner.speeds.serving import ServingTimes
from shoal.sim.cluster.shared_head import SharedCores, SharedHead


def test_what_is_owed_is_taken_from_the_next_step_once() -> None:
    cores = SharedCores(2)
    cores.owe(0.004)
    assert cores.stretch("a", 0.0, 0.010, 2) == pytest.approx(0.014)
    assert cores.stretch("a", 0.014, 0.010, 2) == pytest.approx(0.010)


def test_idle_cores_and_idle_times_pay_first() -> None:
    cores = SharedCores(2)
    cores.owe(0.004)
    assert cores.stretch("a", 0.0, 0.010, 1) == pytest.approx(0.010)  # the other core has 10 ms
    cores.owe(0.015)
    assert cores.stretch("a", 0.010, 0.010, 1) == pytest.approx(0.015)
    cores.owe(0.015)
    # both cores are idle from 25 to 30 ms, then one beside the worker
    assert cores.stretch("a", 0.030, 0.004, 1) == pytest.approx(0.005)


def test_workers_beside_each_other_leave_no_core_idle() -> None:
    cores = SharedCores(2)
    assert cores.stretch("a", 0.0, 0.010, 1) == pytest.approx(0.010)
    cores.owe(0.003)
    # until 10 ms there is no core, from then on one for 2 ms
    assert cores.stretch("b", 0.002, 0.010, 1) == pytest.approx(0.011)


def test_the_head_does_one_thing_after_the_other() -> None:
    head = SharedHead(
        ServingTimes(request_s=0.002, step_s=0.001, token_s=0.0001, client_request_s=0.003, client_token_s=0.0005)
    )
    assert head.take_in(1.0) == pytest.approx(1.005)
    assert head.take_in(1.0) == pytest.approx(1.008)  # the client's second request is sent when its first one is
    assert head.tell(2.0) == pytest.approx(2.0011)
    assert head.tell(2.0) == pytest.approx(2.0016)  # the client still reads the first token
    assert head.send(3.0, 0.001) == pytest.approx(3.001)
    assert head.send(3.0, 0.001) == pytest.approx(3.002)


def test_a_head_that_was_not_measured_costs_nothing() -> None:
    head = SharedHead()
    assert (head.take_in(1.0), head.tell(1.0), head.send(1.0, 0.0)) == (1.0, 1.0, 1.0)
