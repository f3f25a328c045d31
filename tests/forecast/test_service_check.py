"""Workers in service beside what was foretold of them: made-up loads, and a real server of a tiny model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from shoal.bench.load_generator import RequestOutcome
from shoal.forecast.planned_cluster import InService, PlannedCluster
from shoal.forecast.service_check import Sensitivity, check_in_service, compare, sensitivity_of, slowed
from shoal.forecast.service_loads import LoadSeen, foretold, moments_of, plan_load, seen_of
from shoal.planner.speeds.speeds import Curve
from shoal.planner.speeds.unevenness import factor_beyond
from tests.forecast.tiny_cluster import tiny_cluster
from tests.model.tiny_models import make_tiny_gguf

_SENSITIVITY = Sensitivity(prompt_s=0.05, token_s=0.004, prompt_busy_s=0.8, answer_busy_s=1.2)
_LONE = LoadSeen(first_s=0.052, token_s=0.0045, busy_s=1.0)
_MANY = LoadSeen(first_s=0.2, token_s=0.01, busy_s=2.0)


def ratios(lone: LoadSeen, many: LoadSeen) -> InService:
    return compare(lone, many, _LONE, _MANY, _SENSITIVITY)


def test_as_foretold() -> None:
    found = ratios(_LONE, _MANY)
    assert (found.prefill, found.one_row, found.many_rows) == pytest.approx((1.0, 1.0, 1.0))


def test_prompts_and_answers_are_told_apart() -> None:
    """Prompts of 50 ms take 75 and tokens of 4 ms take 5. Many take 0.8 s of prompts and 1.2 of answers, foretold."""
    lone = replace(_LONE, first_s=0.077, token_s=0.0055)
    many = replace(_MANY, busy_s=1.5 * 0.8 + 1.1 * 1.2)
    found = ratios(lone, many)
    assert (found.prefill, found.one_row, found.many_rows) == pytest.approx((1.5, 1.25, 1.1))


def test_a_disturbed_load_is_not_believed_beyond_bounds() -> None:
    found = ratios(replace(_LONE, first_s=9.0, token_s=0.0), replace(_MANY, busy_s=0.0))
    assert (found.prefill, found.one_row, found.many_rows) == (4.0, 0.25, 0.25)


def test_moments_follow_each_other_in_time() -> None:
    """Requests end in any order, each is its client's, and chunks that came together are none."""
    later = RequestOutcome(started_s=2.0, arrivals_s=[2.5, 2.6, 2.6])
    earlier = RequestOutcome(started_s=1.0, arrivals_s=[1.3, 1.4])
    another = RequestOutcome(started_s=1.5, arrivals_s=[1.7], client=1)
    found, other = moments_of([later, another, earlier], 2)
    (moment,) = other
    assert (moment.kind, moment.lasted_s, moment.run_s) == (True, pytest.approx(0.2), pytest.approx(0.2))
    assert [one.kind for one in found] == [True, False, True, False]
    assert [one.run_s for one in found] == pytest.approx([0.3, 0.1, 0.5, 0.1])
    assert [one.lasted_s for one in found] == [one.run_s for one in found]


def test_a_typical_request_counts_and_no_disturbed_one() -> None:
    """Two prompts of 0.1 s and tokens of 10 ms; then a prompt that waits for a second, and tokens of 90 ms."""
    good = [
        RequestOutcome(started_s=at_s, arrivals_s=[at_s + 0.1, at_s + 0.12], output_tokens=3) for at_s in (1.0, 2.0)
    ]
    disturbed = RequestOutcome(started_s=3.0, arrivals_s=[4.0, 4.18], output_tokens=3)
    found = seen_of([*good, disturbed], busy_s=0.5)
    assert (found.first_s, found.token_s, found.busy_s) == pytest.approx((0.1, 0.01, 0.5))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_tiny_gguf(tmp_path_factory.mktemp("tiny"), quant="F32"))


@pytest.fixture(scope="module")
def cluster(model: str) -> Iterator[PlannedCluster]:
    with tiny_cluster(Path(model)) as planned:
        yield planned


def test_what_a_slower_cluster_does_is_told_from_its_loads(cluster: PlannedCluster) -> None:
    """Two stages whose prompts take 1.5 times as long and whose tokens 1.25 times: the pieces of a prompt overlap."""
    lone, many = (plan_load(cluster, clients, tokens, 4.0) for clients, tokens in ((1, 16), (8, 64)))
    slower = slowed(cluster, Curve(rows=(1,), seconds=(1.25,)), 1.5)
    found = compare(
        foretold(slower, lone),
        foretold(slower, many),
        foretold(cluster, lone),
        foretold(cluster, many),
        sensitivity_of(cluster, lone, many),
    )
    assert (found.prefill, found.one_row, found.many_rows) == pytest.approx((1.5, 1.25, 1.25), rel=0.02)


def test_a_real_server_is_looked_at_and_leaves_nothing(cluster: PlannedCluster, model: str) -> None:
    before = psutil.Process().children(recursive=True)
    checked = check_in_service(cluster, model, enough_s=0.2)
    assert set(psutil.Process().children(recursive=True)) <= set(before)  # a fork server of another test may end
    assert checked.in_service is not None
    assert factor_beyond(checked.unevenness, 0.01) > 1.0
    then, now = cluster.fleet.classes[0].busy["fp32"], checked.fleet.classes[0].busy["fp32"]
    ratio = now.mlp.decode.at(1) / then.mlp.decode.at(1)
    assert ratio == pytest.approx(checked.in_service.one_row)


def test_machines_of_a_file_cannot_be_looked_at(cluster: PlannedCluster) -> None:
    described = replace(cluster, num_cores=None)
    assert check_in_service(described, "nowhere.gguf") is described
