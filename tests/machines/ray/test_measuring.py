"""Machines of a Ray cluster, without Ray: what they are called, what is known of their links."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from shoal.comm.tls.tls_identity import MachineKey
from shoal.errors import ConfigError, WorkerLost
from shoal.machines.placed_fleet import PlacedFleet
from shoal.machines.ray.machine import RayMachine, name_of_joined
from shoal.machines.ray.measuring import measure_links, place_graph_machines, place_machines
from shoal.machines.ray.on_machine.agent import MachineFacts
from shoal.measure.graph.profile import GraphSetting, GraphWorkerTimes
from shoal.model.graph.file.graph_file import open_graph
from shoal.model.graph.sample.node_times import NodeTimes
from shoal.planner.speeds.speeds import Fleet, LinkSpeed
from tests.executor.graphs import skip_chain
from tests.planner.choice.example_fleets import make_class, make_fleet

pytest.importorskip("cryptography")

QUICK, SLOW = LinkSpeed(latency_s=1e-4, bytes_per_s=1e9), LinkSpeed(latency_s=1e-2, bytes_per_s=1e7)


def machine(hostname: str, address: str, *, name: str | None = None) -> RayMachine:
    facts = MachineFacts(hostname=hostname, boot_id=address, cores=(0, 1), free_memory_bytes=1 << 30, version="1")
    return RayMachine(node_id=address, name=name or hostname, address=address, raylet_port=1, facts=facts, agent=None)


A, B = machine("a", "10.0.0.1"), machine("b", "10.0.0.2")


@pytest.mark.parametrize(
    ("joined", "living", "name"),
    [
        (machine("c", "10.0.0.3"), {"a", "b"}, "c"),
        (machine("b", "10.0.0.3"), {"a", "b"}, "10.0.0.3"),
        (machine("b", "10.0.0.3"), {"a"}, "b"),
        (machine("c", "10.0.0.2"), {"a"}, "b"),
        (machine("b", "10.0.0.2"), {"a", "b"}, "b"),
    ],
    ids=["new", "two of one name", "back at another address", "back under another name", "back before it was missed"],
)
def test_a_machine_that_comes_back_keeps_its_name(joined: RayMachine, living: set[str], name: str) -> None:
    assert name_of_joined(joined, [A, B], living) == name


def test_machines_that_join_are_placed_behind_those_that_are_known() -> None:
    known = place_machines(None, [A, B], [measured("x"), measured("y")], {("a", "b"): QUICK, ("b", "a"): SLOW})
    c = machine("c", "10.0.0.3")
    placed = place_machines(known, [c], [measured("z", slowness=2.0)], {("a", "c"): SLOW, ("c", "a"): QUICK})
    assert [one.name for one in placed.fleet.classes] == ["a", "b", "c"]
    assert placed.fleet.classes[:2] == known.fleet.classes
    links = placed.fleet.links
    assert (links[0][1], links[1][0], links[0][2], links[2][0]) == (QUICK, SLOW, SLOW, QUICK)
    assert links[1][2].seconds(1) > 1000, "b was gone when c joined"
    assert [place.machine for (place,) in placed.places] == ["a", "b", "c"]
    assert placed.fleet.message_s == SLOW.latency_s


def test_a_machine_that_is_measured_again_changes_nothing_else() -> None:
    known: PlacedFleet = place_machines(None, [A], [measured("x")], {})
    assert place_machines(known, [], [], {}) == replace(known)


def test_rows_cost_nothing_on_the_machine_that_has_the_head_and_elsewhere_what_its_link_takes(tmp_path: Path) -> None:
    graph = open_graph(skip_chain(tmp_path / "chain.onnx", width=16))
    sample = {spec.name: np.zeros((2, 16), np.float32) for spec in graph.inputs}
    setting = GraphSetting(graph=graph, model="m", sample=sample, rows=2, cores=(0,), is_in_process=False)
    nodes = NodeTimes(seconds=(1e-3,) * graph.num_nodes, kept_values=frozenset(), output_bytes=(128,) * graph.num_nodes)
    times = GraphWorkerTimes(node_s=nodes.seconds, nodes=nodes, message_s=0.0)
    links = {("a", "b"): SLOW, ("b", "a"): QUICK}
    fleet = place_graph_machines(None, setting, [A, B], [times, times], links, "a").fleet
    assert (fleet.taken_s([0]), fleet.given_s([0])) == (0.0, 0.0)
    assert fleet.taken_s([0, 1]) == pytest.approx(len(sample) * 2 * 16 * 4 / SLOW.bytes_per_s)
    assert fleet.given_s([1]) == pytest.approx(len(graph.outputs) * 128 / QUICK.bytes_per_s)
    known = place_graph_machines(None, setting, [B], [times], {}, "a")
    again = place_graph_machines(known, setting, [A], [times], links, "a").fleet
    assert (again.near, again.taken_s([0])) == ({1}, fleet.taken_s([1]))


def test_only_links_with_a_new_machine_are_measured() -> None:
    told: list[str] = []

    def get(reference: object, who: str, timeout_s: float) -> object:
        return {"address": ("10.0.0.9", 1), "request": MachineKey().request()}.get(str(reference), QUICK)

    def with_agent(one: RayMachine) -> RayMachine:
        return replace(one, agent=FakeAgent())

    old, new = [with_agent(A), with_agent(B)], [with_agent(machine("c", "10.0.0.3"))]
    links = measure_links([*old, *new], new, get, told.append)
    assert set(links) == {("a", "c"), ("c", "a"), ("b", "c"), ("c", "b")}
    assert len(told) == 4


def test_a_link_that_cannot_be_laid_is_named_with_both_ends() -> None:
    def get(reference: object, who: str, timeout_s: float) -> object:
        if reference == "speed":
            raise WorkerLost("no link to 10.0.0.2:38963: timed out")
        return ("10.0.0.2", 38963) if reference == "address" else MachineKey().request()

    a, b = (replace(one, agent=FakeAgent()) for one in (A, B))
    with pytest.raises(
        ConfigError, match=r"no link from a to b \(no link to 10\.0\.0\.2:38963: timed out\).*SHOAL_PORTS"
    ):
        measure_links([a, b], [a, b], get, lambda what: None)


def measured(name: str, *, slowness: float = 1.0) -> Fleet:
    return make_fleet(make_class(name, slowness=slowness))


class FakeAgent:
    """Its calls give references that say what they stand for."""

    def __init__(self) -> None:
        self.answer_pings, self.time_pings = _Call("address"), _Call("speed")
        self.signing_request = _Call("request")


class _Call:
    def __init__(self, reference: str) -> None:
        self._reference = reference

    def remote(self, *arguments: object) -> str:
        return self._reference
