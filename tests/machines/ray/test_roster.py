"""The machines of a Ray cluster, with fakes of Ray: who joins, who is gone, who is back."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack
from importlib.metadata import version

import pytest

pytest.importorskip("ray")

from shoal.errors import ConfigError
from shoal.machines.ray import roster as roster_module
from shoal.machines.ray.on_machine.agent import DISTRIBUTION
from tests.machines.ray.fake_cluster import FakeCluster
from tests.machines.ray.fake_ray import FakeRay, facts

DIED = FakeRay.exceptions.ActorDiedError()
NOT_INSTALLED = FakeRay.exceptions.ActorDiedError(
    FakeRay.exceptions.RayTaskError("__init__", "x\nModuleNotFoundError: No module named 'shoal'", ImportError())
)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeCluster]:
    monkeypatch.setattr(roster_module, "_SILENCE_S", 0.0)
    with ExitStack() as undo:
        yield FakeCluster(3, undo)


def test_a_machine_that_hangs_is_gone_until_it_answers(cluster: FakeCluster) -> None:
    """Its node stays the same, and never stopped being reachable."""
    roster = cluster.roster()
    assert roster.presence.living() == {"h0", "h1", "h2"}
    cluster.set_answer("node-1", None)
    roster.look()
    assert roster.troubles() == {"h1": "does not answer"}
    roster.look()
    (question,) = [call for call in cluster.agents["node-1"].asked("facts") if not call.is_there]
    question.answer(facts("h1", version(DISTRIBUTION)))
    assert roster.look() == [], "it has its old agent"
    assert roster.presence.take_back() == ["h1"]
    assert roster.troubles() == {}


def test_a_start_that_failed_for_any_reason_puts_a_machine_to_the_question(cluster: FakeCluster) -> None:
    roster = cluster.roster()
    roster.presence.note_trouble("h1", "does not answer")
    roster.look()
    assert roster.presence.take_back() == ["h1"]


def test_an_agent_that_has_died_for_good_has_a_successor(cluster: FakeCluster) -> None:
    roster = cluster.roster()
    old = cluster.agents["node-1"]
    cluster.agents["node-1"].answers = {"facts": DIED}
    (renewed,) = roster.look()
    assert renewed.name == "h1"
    assert renewed.agent is cluster.agents["node-1"] is not old
    assert roster.presence.take_back() == ["h1"]
    assert roster.machines["h1"] is renewed


def test_a_machine_that_cannot_be_reached_is_told_and_comes_back(cluster: FakeCluster) -> None:
    cluster.raylets[2].close()
    cluster.raylets[2] = socket.socket()
    cluster.raylets[2].bind(("127.0.0.3", 0))  # nobody listens
    where = f"127.0.0.3:{cluster.raylets[2].getsockname()[1]}"
    roster = cluster.roster()
    assert set(roster.machines) == {"h0", "h1"}
    assert roster.troubles() == {"h2": f"is in the Ray cluster, but cannot be reached at {where}"}
    cluster.raylets[2].listen()
    (joined,) = roster.look()
    assert joined.name == "h2"
    assert roster.troubles() == {}
    cluster.raylets[2].close()


def test_a_machine_without_shoal_is_an_error_at_the_start_and_a_trouble_later(cluster: FakeCluster) -> None:
    cluster.answers["node-2"] = NOT_INSTALLED
    with pytest.raises(ConfigError, match=r"^Shoal cannot be started on h2 .*No module named 'shoal'"):
        cluster.roster()
    cluster.present.discard(2)
    roster = cluster.roster()
    cluster.present.add(2)
    with pytest.raises(ConfigError, match=r"^Shoal cannot be started on h2"):
        roster.look()
    assert list(roster.troubles()) == ["h2"]
    assert roster.presence.living() == {"h0", "h1"}


def test_another_version_is_refused_by_name(cluster: FakeCluster) -> None:
    cluster.answers["node-1"] = facts("h1", "0.0.1")
    with pytest.raises(ConfigError, match=r"machine h1 has Shoal 0\.0\.1, but this one has "):
        cluster.roster()


def test_an_agent_that_cannot_be_started_is_tried_less_and_less_often(cluster: FakeCluster) -> None:
    cluster.present.discard(2)
    roster = cluster.roster()
    cluster.present.add(2)
    cluster.answers["node-2"] = NOT_INSTALLED
    tries: list[int] = []
    for turn in range(40):
        try:
            roster.look()
        except ConfigError:
            tries.append(turn)
    assert tries == [0, 1, 3, 7, 15, 28]
    assert len(cluster.ray.killed) == len(tries)
    cluster.answers["node-2"] = facts("h2", version(DISTRIBUTION))
    assert [machine.name for _ in range(2) for machine in roster.look()] == ["h2"]


def test_what_a_machine_was_before_it_came_back_is_no_machine(cluster: FakeCluster) -> None:
    """Ray believes for minutes that a machine lives which was switched off, also while it has joined once more."""
    roster = cluster.roster()
    cluster.raylets[2].close()
    cluster.raylets[2] = socket.socket()
    cluster.raylets[2].bind(("127.0.0.3", 0))
    ghost = cluster.nodes()[2]
    roster.look()
    assert list(roster.troubles()) == ["h2"]
    cluster.node_ids[2] = "node-2-again"
    cluster.answers["node-2-again"] = facts("h2", version(DISTRIBUTION))
    with socket.create_server(("127.0.0.3", 0)) as raylet:
        cluster.raylets[2].close()
        cluster.raylets[2], cluster.ghosts = raylet, [ghost]
        (back,) = roster.look()
        assert (back.name, back.node_id) == ("h2", "node-2-again")
        assert roster.presence.take_back() == ["h2"]
        for _ in range(2):
            assert roster.look() == []
            assert roster.troubles() == {}
            assert roster.presence.take_back() == []


def test_one_that_leaves_the_cluster_is_gone(cluster: FakeCluster) -> None:
    roster = cluster.roster()
    cluster.present.discard(1)
    roster.look()
    assert roster.troubles() == {"h1": "has left the Ray cluster"}
    cluster.node_ids[1] = "node-1-again"
    cluster.answers["node-1-again"] = facts("h1", version(DISTRIBUTION))
    cluster.present.add(1)
    (back,) = roster.look()
    assert (back.name, back.node_id) == ("h1", "node-1-again")
    assert roster.presence.take_back() == ["h1"]
