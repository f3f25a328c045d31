"""The planner in a process of its own: its answers, its errors, and its end."""

from __future__ import annotations

import pytest

from shoal.errors import CapacityError, DeadlineExceeded
from shoal.launch.what_if import ask_planner
from shoal.planner.choice.goal import Goal
from shoal.planner.predict.workload import Workload
from shoal.planner.what_if import Change, PlanQuestion
from tests.planner.choice.example_fleets import make_class, make_fleet, make_model

QUESTION = PlanQuestion(
    fleets=(make_fleet(make_class("a", memory_mb=60), make_class("b", memory_mb=60)),),
    model=make_model(),
    workload=Workload(streams=1, prompt_tokens=8, output_tokens=8),
    goal=Goal(objective="throughput"),
    precisions=("int8",),
    is_one_machine=False,
)


def test_the_answer_is_that_of_this_process() -> None:
    change = Change(kind="links", factor=0.5)
    there, here = ask_planner(QUESTION, change), QUESTION.changed(change).answer()
    assert there.best.prediction == here.best.prediction
    assert [one.kind for one in there.alternatives] == [one.kind for one in here.alternatives]


def test_why_there_is_none_comes_back() -> None:
    with pytest.raises(CapacityError, match="missing"):
        ask_planner(QUESTION, Change(kind="remove", like="b"))


def test_a_search_that_takes_too_long_is_ended() -> None:
    """By far: a new Python alone takes longer."""
    with pytest.raises(DeadlineExceeded, match=r"no answer within 0\.001 s"):
        ask_planner(QUESTION, Change(kind="links"), deadline_s=1e-3)
