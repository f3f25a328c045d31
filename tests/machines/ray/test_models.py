"""A model and its adapter on their way to a machine that has neither, and a worker there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("ray")
pytest.importorskip("cryptography")
pytest.importorskip("transformers")

from shoal.core.plan.placement import WorkerPlacement
from shoal.core.plan.rebuilding import with_placements
from shoal.core.sequences.request import Request
from shoal.executor.launcher import LoadMessage
from shoal.executor.remote.host import LocalHost
from shoal.executor.remote.launcher import RemoteLauncher
from shoal.launch.language.planning import plan_model
from shoal.launch.launch import launch
from shoal.machines.ray.machine import RayMachine
from shoal.machines.ray.models import ModelPlaces
from shoal.machines.ray.on_machine.agent import MachineAgent
from shoal.model.adapter.files import file_to_send
from shoal.protocol.language_messages import LoadStage
from tests.integration.leaks import no_leaks
from tests.integration.running import PATIENT, make_requests, tiny_config, transcribe
from tests.machines.ray.fake_ray import facts
from tests.model.tiny_adapters import tiny_adapter
from tests.model.tiny_models import make_tiny_model

REQUESTS = [replace(request, adapter=index % 2 - 1) for index, request in enumerate(make_requests(4))]


class DirectAgent(MachineAgent):
    """A real agent that is called without Ray, of a machine that has other files."""

    def find_model(self, path: str, identity: Any) -> tuple[bool, str]:
        return super().find_model(f"/nowhere{path}", identity)


def remote_calls(agent: MachineAgent) -> Any:
    """As Ray's actors are called: the answer is there at once."""

    class Calls:
        def __getattr__(self, name: str) -> SimpleNamespace:
            return SimpleNamespace(remote=getattr(agent, name))

    return Calls()


class FarHost(LocalHost):
    """Workers of that machine, which have what was brought to it."""

    def __init__(self, places: ModelPlaces) -> None:
        super().__init__("127.0.0.1")
        self._places = places

    def model_path(self, path: str) -> str:
        return self._places.path_on("h1", path)

    def provide(
        self, load: LoadMessage, is_wanted: Callable[[], bool], note_progress: Callable[[], None] = lambda: None
    ) -> None:
        assert isinstance(load, LoadStage)
        self._places.bring("h1", (load.stage.first_layer, load.stage.last_layer), load.num_layers)


@pytest.fixture
def agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[DirectAgent]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    agent = DirectAgent("127.0.0.1", "")
    yield agent
    agent._host.close()


def tokens(requests: list[Request], **options: Any) -> dict[str, list[int]]:
    with launch(options.pop("planned"), recovery=PATIENT, **options) as loaded:
        return transcribe(loaded.engine, requests).tokens


def test_an_adapter_travels_as_its_model_does(agent: DirectAgent, tmp_path: Path) -> None:
    model = make_tiny_model("llama", tmp_path / "model")
    adapter = tiny_adapter(model, tmp_path / "adapter")
    planned = plan_model(replace(tiny_config(model, split="pp=2"), adapters={"fish": str(adapter)}))
    expected = tokens(REQUESTS, planned=planned)
    machine = RayMachine(
        node_id="1", name="h1", address="127.0.0.1", raylet_port=1, facts=facts("h1", "1"), agent=remote_calls(agent)
    )
    places = ModelPlaces(model, [machine], lambda reference, who: reference, [file_to_send(str(adapter))])
    assert places.path_on("h1") != str(model)
    moved = with_placements(planned.plan, [WorkerPlacement(threads=1, cores=(), machine="h1")] * 2)
    with no_leaks():
        host = FarHost(places)
        assert tokens(REQUESTS, planned=replace(planned, plan=moved), launcher=RemoteLauncher({"h1": host})) == expected
        host.close()
    brought = Path(places.path_on("h1", str(adapter / "adapter_config.json"))).parent
    assert brought.is_relative_to(tmp_path / "cache")
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        assert (brought / name).read_bytes() == (adapter / name).read_bytes()
