"""Pauses that are foretold, against sums made by hand, and pauses that are seen."""

from dataclasses import replace

import pytest

from shoal.bench.drill.pauses import ClientPace, SeenPauses, drill_times, predict_pause, seen_pause
from shoal.bench.drill.targets import DrillTarget, targets_of
from shoal.errors import ConfigError
from shoal.executor.remote.strikes import STRIKE_KINDS

PACE = ClientPace(gap_s=0.05, again_s=0.002)
TIMES = drill_times(None, None)
WORKER = DrillTarget(
    model="m",
    replicas=(0,),
    worker=1,
    machine="b",
    weight_bytes=10**9,
    replica_weight_bytes=2 * 10**9,
    reduced_weight_bytes=3 * 10**9,
    has_others=False,
)
LOCAL = replace(WORKER, machine=None)
MACHINE = replace(WORKER, worker=None)
ONLY_MACHINE = replace(MACHINE, reduced_weight_bytes=None)


@pytest.mark.parametrize(
    ("target", "how", "expected_s"),
    [
        (WORKER, "kill", 0.003 + 0.6 + 1.0),
        (LOCAL, "kill", 0.003 + 0.1 + 1.0),
        (WORKER, "stop", 2.0 + 0.6 + 2.0),
        (MACHINE, "kill", 0.003 + 3.0 + 0.6 + 1.0),
        (MACHINE, "stop", 2.0 + 0.6 + 2.0),
        (MACHINE, "cable", 2.0 + 0.6 + 3.0),
        (ONLY_MACHINE, "cable", 5.0 + 0.6 + 2.0),
    ],
)
@pytest.mark.parametrize("has_others", [False, True])
def test_a_pause_adds_up(target: DrillTarget, how, expected_s: float, has_others: bool) -> None:
    if has_others:
        expected_s = 0.003 if how == "kill" else 2.0
    found = predict_pause(replace(target, has_others=has_others), how, PACE, SeenPauses(), TIMES, again=100)
    assert found == pytest.approx(expected_s + 100 * 0.002 + 0.05)


def test_the_servers_patience_counts_for_those_that_hang() -> None:
    times = drill_times(7.0, None)
    assert times.cable_s == 15.0
    other = replace(WORKER, has_others=True)
    assert predict_pause(other, "stop", PACE, SeenPauses(), times, again=0) == pytest.approx(7.05)


def test_a_cable_that_is_back_too_soon_is_no_drill() -> None:
    with pytest.raises(ConfigError, match="back before the server notices, after 7 s"):
        drill_times(7.0, 6.0)


def test_what_was_seen_counts_in_the_place_of_what_is_usual() -> None:
    seen = SeenPauses()
    for seconds in (3.0, 1.0, 2.0):
        seen.note("kill", WORKER, TIMES, seconds)
    assert predict_pause(WORKER, "kill", PACE, seen, TIMES, again=0) == pytest.approx(0.003 + 2.0 + 0.05)
    slower = 2.0 / 1.6
    assert predict_pause(WORKER, "stop", PACE, seen, TIMES, again=0) == pytest.approx(2.0 + 2.6 * slower + 0.05)
    assert predict_pause(MACHINE, "kill", PACE, seen, TIMES, again=0) == pytest.approx(0.003 + 4.6 * slower + 0.05)
    seen.note("kill", MACHINE, TIMES, 9.0)
    assert predict_pause(MACHINE, "kill", PACE, seen, TIMES, again=0) == pytest.approx(0.003 + 9.0 + 0.05)


def test_the_longest_wait_of_those_that_were_under_way_counts() -> None:
    streams = [
        [0.0, 0.1, 0.2, 1.7, 1.8],  # met at 0.25: 1.5 s
        [0.0, 0.1, 0.2, 0.3, 0.4],  # elsewhere
        [0.0, 0.2],  # over before
        [0.3, 9.0],  # begun after
        [],
    ]
    assert seen_pause(streams, 0.25) == pytest.approx(1.5)
    assert seen_pause([[0.0, 0.1]], 0.25) == 0.0


def test_the_first_worker_of_each_replica_or_every_one() -> None:
    workers = [{"replica": replica, "weight_bytes": 10 + stage} for replica in (0, 1) for stage in (0, 1)]
    model = {"name": "m", "plan": {"workers": workers}, "replicas": [{}, {}]}
    assert [(one.replicas, one.worker) for one in targets_of(model, every=False)] == [((0,), 0), ((1,), 0)]
    every = targets_of(model, every=True)
    assert [(one.replicas, one.worker) for one in every] == [((0,), 0), ((0,), 1), ((1,), 0), ((1,), 1)]
    assert [(one.weight_bytes, one.replica_weight_bytes) for one in every[:2]] == [(10, 11), (11, 11)]
    assert all(one.has_others and one.ways_of(STRIKE_KINDS) == ["kill", "stop"] for one in every)


def test_machines_take_all_their_workers_with_them() -> None:
    """Replica 0 is on a and b, replica 1 on b alone."""
    places = [(0, "a", 10), (0, "b", 20), (1, "b", 40)]
    workers = [{"replica": replica, "machine": name, "weight_bytes": size} for replica, name, size in places]
    model = {"name": "m", "plan": {"workers": workers}, "replicas": [{}, {}]}
    a, b = [one for one in targets_of(model, every=False) if one.worker is None]
    assert (a.name, a.replicas, a.has_others, a.weight_bytes) == ("machine a", (0,), True, 10)
    assert (b.name, b.replicas, b.has_others, b.weight_bytes) == ("machine b", (0, 1), False, 40)
    assert (a.replica_weight_bytes, a.reduced_weight_bytes) == (20, 30)
    assert b.ways_of(STRIKE_KINDS) == ["kill", "stop", "cable"]
    alone = {"name": "m", "plan": {"workers": workers[:1]}, "replicas": [{}]}
    assert targets_of(alone, every=False)[1].reduced_weight_bytes is None
