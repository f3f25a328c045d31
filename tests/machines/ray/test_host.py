"""Starting workers through an agent that hangs, dies and comes back."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

pytest.importorskip("ray")

from shoal.comm.tls.tls_identity import Membership
from shoal.errors import WorkerLost
from shoal.executor.remote.host import StartedWorker
from shoal.machines.ray.host import AbandonedStarts, RayHost
from shoal.machines.ray.machine import RayMachine
from shoal.machines.ray.presence import Presence
from shoal.protocol.language_messages import LoadStage
from shoal.protocol.stage_config import StageConfig
from tests.machines.ray.fake_ray import FakeAgent, FakeRay, facts

UNAVAILABLE = FakeRay.exceptions.ActorUnavailableError("it is started again", None)
STARTED = StartedWorker(pid=7, address=("127.0.0.1", 1))
MEMBER = Membership(authority_pem=b"authority", certificate_pem=b"certificate")
LOAD = LoadStage(
    version=1,
    model_path="model.gguf",
    stage_index=0,
    num_stages=1,
    rank=0,
    cores=(),
    stage=StageConfig(
        first_layer=0,
        last_layer=1,
        precision="fp32",
        threads=1,
        num_blocks=1,
        block_size=16,
        max_step_tokens=1,
        max_context=16,
    ),
    num_layers=1,
    num_shards=1,
)


def admit(request: bytes) -> Membership:
    assert request == b"request"
    return MEMBER


class Attempts:
    """Wanted for so many questions."""

    def __init__(self, count: int) -> None:
        self._left = count

    def is_wanted(self) -> bool:
        self._left -= 1
        return self._left >= 0


class Scene:
    """A machine whose raylet listens."""

    def __init__(self, raylet: socket.socket) -> None:
        self.ray, self.agent, self.presence = FakeRay(), FakeAgent(), Presence()
        self.abandoned = AbandonedStarts(self.ray)
        address, port = raylet.getsockname()
        machine = RayMachine(
            node_id="1", name="h1", address=address, raylet_port=port, facts=facts("h1", "1"), agent=self.agent
        )
        self.presence.note_there("h1")
        self.host = RayHost(self.ray, machine, None, self.presence, self.abandoned)
        self.num_signs = 0

    def provide(self, attempts: int) -> None:
        def note_progress() -> None:
            self.num_signs += 1

        self.host.provide(LOAD, Attempts(attempts).is_wanted, note_progress)


@pytest.fixture
def raylet() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening


@pytest.fixture
def scene(raylet: socket.socket) -> Scene:
    return Scene(raylet)


def test_only_a_signing_request_and_its_answer_travel(scene: Scene) -> None:
    scene.agent.answers = {"signing_request": b"request", "start": STARTED}
    assert scene.host.start(admit, lambda: True) == STARTED
    assert [(call.what, call.arguments) for call in scene.agent.calls] == [
        ("signing_request", ()),
        ("start", (MEMBER, None)),
    ]


def test_a_worker_that_comes_of_a_start_that_was_given_up_is_ended(scene: Scene) -> None:
    """The agent hung, and carries out what it was asked for when it goes on."""
    scene.agent.answers = {"signing_request": b"request"}
    for _ in range(3):
        with pytest.raises(WorkerLost, match="machine h1 has started no worker"):
            scene.host.start(admit, Attempts(0).is_wanted)
    scene.abandoned.look()
    assert not scene.agent.asked("end")
    late = [StartedWorker(pid=pid, address=("127.0.0.1", pid)) for pid in (1, 2)]
    first, second, third = scene.agent.asked("start")
    first.answer(late[0])
    third.answer(WorkerLost("no worker could be started"))
    scene.abandoned.look()
    second.answer(late[1])
    scene.abandoned.look()
    scene.abandoned.look()
    assert [call.arguments for call in scene.agent.asked("end")] == [(late[0],), (late[1],)]


def test_an_agent_that_is_started_again_is_waited_for(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """While that lasts the head sees signs of life, so that nothing is planned anew."""
    scene.agent.answers = {"facts": UNAVAILABLE}

    def pass_on(seconds: float) -> None:
        if scene.num_signs == 3:
            scene.agent.answers = {"facts": facts("h1", "1")}

    monkeypatch.setattr("shoal.machines.ray.host.time.sleep", pass_on)
    scene.provide(attempts=10)
    assert scene.num_signs == 3
    assert scene.presence.living() == {"h1"}


def test_an_agent_that_hangs_is_told_and_gives_no_sign(scene: Scene) -> None:
    with pytest.raises(WorkerLost, match="machine h1 does not answer"):
        scene.provide(attempts=2)
    assert not scene.num_signs
    assert scene.presence.troubles() == {"h1": "does not answer"}


def test_a_machine_that_is_off_is_told_with_its_address(scene: Scene, raylet: socket.socket) -> None:
    host, port = raylet.getsockname()
    raylet.close()
    with pytest.raises(WorkerLost, match=f"machine h1 cannot be reached at {host}:{port}"):
        scene.provide(attempts=10)
    assert scene.presence.troubles() == {"h1": f"is in the Ray cluster, but cannot be reached at {host}:{port}"}


def test_how_a_worker_ended_is_asked_once(scene: Scene) -> None:
    assert scene.host.exit_status(STARTED) is None
    assert not scene.host.has_ended(STARTED)
    (asked,) = scene.agent.asked("wait_for_end")
    asked.answer(-9)
    assert scene.host.has_ended(STARTED)
    assert scene.host.exit_status(STARTED) == -9
    assert len(scene.agent.asked("wait_for_end")) == 1


def test_where_an_agent_has_died_its_workers_have(scene: Scene) -> None:
    scene.agent.answers = {"wait_for_end": UNAVAILABLE}
    assert scene.host.has_ended(STARTED)
    assert scene.host.exit_status(STARTED) is None
