"""What other machines would change: more, fewer, and other links."""

from __future__ import annotations

import pytest

from shoal.errors import CapacityError, ConfigError
from shoal.planner.choice.goal import Goal
from shoal.planner.predict.workload import Workload
from shoal.planner.speeds.speeds import Fleet, LinkSpeed
from shoal.planner.what_if import Change, PlanQuestion
from tests.planner.choice.example_fleets import SLOW_LINK, make_class, make_fleet, make_model


def ask(*fleets: Fleet, is_one_machine: bool = False, streams: int = 4) -> PlanQuestion:
    return PlanQuestion(
        fleets=fleets,
        model=make_model(),
        workload=Workload(streams=streams, prompt_tokens=8, output_tokens=8),
        goal=Goal(objective="throughput"),
        precisions=("int8",),
        is_one_machine=is_one_machine,
    )


def rate(question: PlanQuestion) -> float:
    return question.answer().best.prediction.output_tokens_per_s


def test_one_machine_more_does_more_and_one_fewer_less() -> None:
    question = ask(make_fleet(make_class("a", count=2), make_class("b")))
    more = question.changed(Change(kind="add", like="a"))
    fewer = question.changed(Change(kind="remove", like="b"))
    assert more.fleets[0].counts == (3, 1)
    assert fewer.fleets[0].counts == (2,)
    assert rate(fewer) < 0.9 * rate(question)
    assert rate(more) > 1.05 * rate(question)


def test_a_class_that_has_gone_takes_its_links_with_it() -> None:
    fleet = make_fleet(make_class("a"), make_class("b"), make_class("c"))
    links = tuple(
        tuple(LinkSpeed(latency_s=0.0, bytes_per_s=10.0 * row + column + 1) for column in range(3)) for row in range(3)
    )
    question = ask(Fleet(classes=fleet.classes, links=links, sums=links)).changed(Change(kind="remove", like="b"))
    assert question.class_names == ("a", "c")
    assert [[link.bytes_per_s for link in row] for row in question.fleets[0].links] == [[1, 3], [21, 23]]


def test_half_the_link_halves_the_rate_of_all_links_and_no_latency() -> None:
    fleet = make_fleet(make_class("a", count=2), link=SLOW_LINK, sums=SLOW_LINK)
    changed = ask(fleet).changed(Change(kind="links", factor=0.5)).fleets[0]
    assert changed.links == changed.sums == ((LinkSpeed(latency_s=5e-3, bytes_per_s=5e6),),)
    assert changed.classes == fleet.classes


def test_a_lone_machine_is_doubled_with_the_link_that_was_asked_for() -> None:
    question = ask(make_fleet(make_class("1 core", count=2)), is_one_machine=True)
    assert question.class_names == ("this machine",)
    twin = question.changed(Change(kind="add", like="this machine", link=SLOW_LINK))
    assert twin.fleets[0].counts == (2, 2)
    assert twin.fleets[0].links[0][1] == twin.fleets[0].links[1][0] == twin.fleets[0].sums[0][1] == SLOW_LINK
    assert twin.fleets[0].links[1][1] == question.fleets[0].links[0][0]
    assert rate(twin) > 1.2 * rate(question)


@pytest.mark.parametrize("is_one_machine", [True, False])
def test_the_last_machine_stays(is_one_machine: bool) -> None:
    question = ask(make_fleet(make_class("a")), is_one_machine=is_one_machine)
    with pytest.raises(ConfigError, match="the only machine"):
        question.changed(Change(kind="remove", like=question.class_names[0]))


def test_machines_that_nobody_has() -> None:
    with pytest.raises(ConfigError, match="no machine 'c' to add or to take away: there are 'a', 'b'"):
        ask(make_fleet(make_class("a"), make_class("b"))).changed(Change(kind="add", like="c"))


def test_too_few_machines_are_told_of() -> None:
    fleet = make_fleet(make_class("a", memory_mb=60), make_class("b", memory_mb=60))
    with pytest.raises(CapacityError, match="missing"):
        ask(fleet, streams=1).changed(Change(kind="remove", like="b")).answer()
