"""Sweeps run as samples in `make test` and whole in `make test-all` (`pytest --whole`).

A sample is every n-th case in the order in which the test has them, the same ones in every run: the test says
`@pytest.mark.sample(every=4)`. One that loops over its cases has parts of them as its parameter. What has failed once
is no part of a sweep: it gets a test of its own.

The same holds for the examples that Hypothesis draws: the same ones in every `make test`, so that it fails only of what
has changed, and others each time in `make test-all`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.internal.conjecture import providers

FirstT = TypeVar("FirstT")
SecondT = TypeVar("SecondT")


def in_turn(first: Sequence[FirstT], second: Sequence[SecondT]) -> list[tuple[FirstT, SecondT]]:
    """Every pair, so ordered that the sample of every n-th has each of the first, and those of the second in turn.

    n is how many there are of the second.
    """
    n = len(second)
    return [(one, second[(index + shift) % n]) for index, one in enumerate(first) for shift in range(n)]


def sample_items(items: list[pytest.Item]) -> list[pytest.Item]:
    """Take from the collected items those that are not in the samples, and return them.

    The first collected case of a test is always in its sample, so that a case asked for by its name is run.
    """
    num_seen: Counter[str] = Counter()
    kept: list[pytest.Item] = []
    left: list[pytest.Item] = []
    for item in items:
        mark, test = item.get_closest_marker("sample"), item.nodeid.partition("[")[0]
        (left if mark and num_seen[test] % mark.kwargs["every"] else kept).append(item)
        num_seen[test] += 1
    items[:] = kept
    return left


def choose_examples(*, anew: bool) -> None:
    """Let Hypothesis draw other examples in each run, or the same ones in every run. None of them has to be quick.

    Beside random values Hypothesis draws constants of whichever modules of ours are imported by then, which differ
    between the processes that share the tests of a run. Without `anew` it leaves them out.

    Mutates: the settings of Hypothesis, which those that tests declare are based on.
    """
    settings.register_profile(
        "shoal",
        derandomize=not anew,
        database=None,
        deadline=None,  # how long an example takes says how busy the machine is
        print_blob=True,
        suppress_health_check=[HealthCheck.too_slow],
    )
    settings.load_profile("shoal")
    if not anew:
        no_constants = providers.Constants()
        providers._get_local_constants = lambda: no_constants
