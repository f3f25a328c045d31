"""Guided requests: every sampled row carries what may be drawn, whatever happens to the request before."""

from __future__ import annotations

from collections.abc import Sequence

from shoal.core.generation.events import WorkersLost, WorkersReady
from tests.core.generation.scheduler_driver import Driver, make_config, make_request


class CountingGuide:
    """Allows one token: as many as there are outputs."""

    def allowed(self, outputs: Sequence[int], /) -> bytes:
        assert list(outputs) == [100 + place for place in range(len(outputs))], "the driver draws these"
        return bytes([0] * len(outputs) + [1])


def masks(driver: Driver) -> list[tuple[int, bytes]]:
    return [(sample.token_index, sample.allowed) for step in driver.sent for sample in step.samples]


def test_every_output_has_its_own_mask() -> None:
    driver = Driver(make_config())
    driver.add(make_request("a", max_tokens=3, guide=CountingGuide()), make_request("b", max_tokens=1))
    driver.finish()
    assert sorted(masks(driver)) == [(0, b""), (0, b"\1"), (1, b"\0\1"), (2, b"\0\0\1")]


def test_a_request_that_is_computed_again_goes_on_with_the_next_mask() -> None:
    driver = Driver(make_config())
    driver.add(make_request("a", max_tokens=4, guide=CountingGuide()))
    driver.answer()
    driver.answer()
    driver.in_flight.clear()
    driver.tell(WorkersLost(reason="killed"))
    driver.tell(WorkersReady())
    driver.finish()
    assert [index for index, _ in masks(driver)] == [0, 1, 2, 2, 3]
    assert all(mask == bytes([0] * index + [1]) for index, mask in masks(driver))
