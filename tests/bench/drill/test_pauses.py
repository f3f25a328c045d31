"""Pauses that are foretold, against sums made by hand, and pauses that are seen."""

import pytest

from shoal.bench.drill.pauses import DrillTarget, SeenPauses, StreamPace, predict_pause, seen_pause, targets_of

PACE = StreamPace(token_gap_s=0.05, prompt_token_s=0.002)


def target(*, has_others: bool) -> DrillTarget:
    return DrillTarget(
        model="m",
        replica=0,
        worker=1,
        machine=None,
        weight_bytes=10**9,
        replica_weight_bytes=2 * 10**9,
        has_others=has_others,
    )


@pytest.mark.parametrize(
    ("how", "has_others", "expected_s"),
    [
        ("kill", True, 0.003 + 100 * 0.002 + 0.05),
        ("kill", False, 0.003 + 0.6 + 1.0 + 100 * 0.002 + 0.05),
        ("stop", True, 2.0 + 100 * 0.002 + 0.05),
        ("stop", False, 2.0 + 0.6 + 2.0 + 100 * 0.002 + 0.05),
    ],
)
def test_a_pause_adds_up(how, has_others, expected_s):
    found = predict_pause(target(has_others=has_others), how, PACE, SeenPauses(), known_tokens=100)
    assert found == pytest.approx(expected_s)


def test_the_servers_patience_counts_for_those_that_hang():
    found = predict_pause(target(has_others=True), "stop", PACE, SeenPauses(), known_tokens=0, worker_timeout_s=7.0)
    assert found == pytest.approx(7.05)


def test_what_was_seen_counts_in_the_place_of_what_is_usual():
    seen = SeenPauses()
    for seconds in (3.0, 1.0, 2.0):
        seen.note("kill", seconds)
    alone = target(has_others=False)
    assert predict_pause(alone, "kill", PACE, seen, known_tokens=0) == pytest.approx(0.003 + 2.0 + 0.05)
    assert predict_pause(alone, "stop", PACE, seen, known_tokens=0) == pytest.approx(2.0 + 2.6 + 0.05)


def test_the_longest_wait_of_those_that_were_under_way_counts():
    streams = [
        [0.0, 0.1, 0.2, 1.7, 1.8],  # met at 0.25: 1.5 s
        [0.0, 0.1, 0.2, 0.3, 0.4],  # elsewhere
        [0.0, 0.2],  # over before
        [0.3, 9.0],  # begun after
        [],
    ]
    assert seen_pause(streams, 0.25) == pytest.approx(1.5)
    assert seen_pause([[0.0, 0.1]], 0.25) == 0.0


def test_the_first_worker_of_each_replica_or_every_one():
    workers = [{"replica": replica, "weight_bytes": 10 + stage} for replica in (0, 1) for stage in (0, 1)]
    model = {"name": "m", "plan": {"workers": workers}, "replicas": [{}, {}]}
    assert [(one.replica, one.worker) for one in targets_of([model], every=False)] == [(0, 0), (1, 0)]
    every = targets_of([model], every=True)
    assert [(one.replica, one.worker) for one in every] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert [(one.weight_bytes, one.replica_weight_bytes) for one in every[:2]] == [(10, 11), (11, 11)]
    assert all(one.has_others for one in every)
