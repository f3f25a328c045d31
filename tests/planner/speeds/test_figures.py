"""Whether what was measured can be trusted."""

from dataclasses import replace

import pytest

from shoal.planner.speeds.figures import Figures, ProcessorUse, figures_of, others_share
from tests.planner.example_speeds import example_fleet


def use(at_s: float, busy_s: float, own_s: float) -> ProcessorUse:
    return ProcessorUse(at_s=at_s, busy_s=busy_s, own_s=own_s)


@pytest.mark.parametrize(
    ("after", "share"),
    [
        (use(20.0, 110.0, 15.0), 0.25),  # of 20 s of two cores, 10 s of busy time, of which 5 s were ours
        (use(20.0, 110.0, 20.0), 0.0),
        (use(20.0, 120.0, 10.0), 1.0),
        (use(20.0, 100.0, 12.0), 0.0),  # ours outside of these cores, or clocks that tick coarsely
        (use(20.0, 150.0, 10.0), 1.0),
        (use(10.0, 100.0, 10.0), 0.0),
    ],
)
def test_others_share_is_busy_time_that_is_not_ours(after: ProcessorUse, share: float) -> None:
    assert others_share(use(10.0, 100.0, 10.0), after, 2) == pytest.approx(share)


@pytest.mark.parametrize(("share", "is_disturbed"), [(0.0, False), (0.2, False), (0.21, True)])
def test_a_fifth_of_the_time_is_too_much(share: float, is_disturbed: bool) -> None:
    assert Figures(is_rough=False, others_share=share).is_disturbed == is_disturbed


def test_the_worst_worker_counts() -> None:
    (kind,) = example_fleet().classes
    assert figures_of([kind]) == Figures(is_rough=False, others_share=0.0)
    assert figures_of([]) == Figures(is_rough=False, others_share=0.0)
    classes = [replace(kind, is_rough=True), replace(kind, others_share=0.5), kind]
    assert figures_of(classes) == Figures(is_rough=True, others_share=0.5)
