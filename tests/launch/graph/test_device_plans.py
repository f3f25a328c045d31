"""`--split auto` on a machine with devices, and cluster files that name devices: what is measured and what is taken."""

from __future__ import annotations

from pathlib import Path

import pytest

from shoal.config import DevicesConfig, GraphLaunchConfig, PlanningConfig
from shoal.errors import ConfigError
from shoal.launch import devices as offers
from shoal.launch.devices import Offer, OfferedDevice
from shoal.launch.graph.planning import PlannedGraph, plan_graph
from shoal.measure.graph import profile
from shoal.protocol.device_config import DeviceConfig
from tests.executor.graphs import skip_chain
from tests.measure.graph.fake_measurer import FakeMeasurer

LINK = "link: {latency_s: 1e-5, bytes_per_s: 1e10}"
RATES = "rates: {memory_bytes_per_s: 1e10, fp32_flops_per_s: 1e11}"
GPU, SLOW = DeviceConfig(provider="cuda"), DeviceConfig(provider="webgpu", index=1)


@pytest.fixture(autouse=True)
def _nothing_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(profile, "device_setting", lambda device, python: ["a release, a driver"])


@pytest.fixture
def chain(tmp_path: Path) -> Path:
    return skip_chain(tmp_path / "chain.onnx")


def plan(
    path: Path, monkeypatch: pytest.MonkeyPatch, measurer: FakeMeasurer, *devices: DeviceConfig, alone: bool = False
) -> PlannedGraph:
    offered = tuple(OfferedDevice(device=one, python="/p", memory_bytes=None) for one in devices)
    monkeypatch.setattr(offers, "offered_devices", lambda config: Offer(devices=offered, with_processor=not alone))
    config = GraphLaunchConfig(model=str(path), split="auto", planning=PlanningConfig(objective="throughput"))
    return plan_graph(config, make_measurer=measurer)


def test_a_quick_device_gets_a_copy_beside_the_processor(chain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measurer = FakeMeasurer(gain=1.0)
    measurer.device_s, measurer.notes = {"cuda:0": 0.005}, ["2 nodes on the processor: Shape"]
    planned = plan(chain, monkeypatch, measurer, GPU)
    found = {(shard.device and shard.device.name, shard.python) for shard in planned.plan.shards}
    assert (planned.plan.split, found) == ("dp=2", {(None, None), ("cuda:0", "/p")})
    assert planned.auto is not None
    assert [option.what for option in planned.auto.devices] == [
        "the processor alone",
        "cuda:0 alone",
        "the processor and cuda:0",
    ]
    assert planned.auto.notes == ("2 nodes on the processor: Shape",)
    assert measurer.asked[-2:] == ["cuda:0", "cpu+cuda:0"]
    assert planned.whole is None, "a device is not computed on in this process"


def test_a_hopeless_device_is_not_measured_beside_others(chain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measurer = FakeMeasurer()
    measurer.device_s = {"webgpu:1": 1.0}
    planned = plan(chain, monkeypatch, measurer, SLOW)
    assert all(shard.device is None for shard in planned.plan.shards)
    assert measurer.asked[-1] == "webgpu:1"
    assert planned.auto is not None
    assert "100 times as slow as the processor alone" in planned.auto.devices[-1].reason


def test_a_device_alone_where_the_user_names_no_processor(chain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measurer = FakeMeasurer()
    measurer.device_s = {"webgpu:1": 1.0}
    planned = plan(chain, monkeypatch, measurer, SLOW, alone=True)
    assert [shard.device for shard in planned.plan.shards] == [SLOW]


def test_a_device_that_cannot_be_measured_is_left_out_with_its_reason(
    chain: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Failing(FakeMeasurer):
        def places(self, places):  # type: ignore[no-untyped-def]
            raise ConfigError("replica 0 stage 0 on cuda:0: no driver")

    planned = plan(chain, monkeypatch, Failing(), GPU)
    assert planned.auto is not None
    assert [(option.what, option.reason) for option in planned.auto.devices[1:]] == [("cuda:0 alone", "no driver")]
    with pytest.raises(ConfigError, match="no device can be used: cuda:0: no driver"):
        plan(chain, monkeypatch, Failing(), GPU, alone=True)


def on_cluster(path: Path, folder: Path, machines: list[str], measurer: FakeMeasurer) -> PlannedGraph:
    file = folder / "machines.yaml"
    file.write_text("\n".join(["machines:", *machines, LINK]))
    planning = PlanningConfig(objective="throughput", cluster=str(file))
    return plan_graph(GraphLaunchConfig(model=str(path), split="auto", planning=planning), make_measurer=measurer)


def test_machines_of_a_file_have_devices(chain: Path, tmp_path: Path) -> None:
    measurer = FakeMeasurer()
    measurer.device_s = {"cuda:1": 0.004}
    machines = [
        "  - {name: card, device: 'cuda:1', memory: 1G, python: /p, provider_options: {k: v}}",
        f"  - {{name: far, count: 2, device: webgpu, cores: 4, memory: 1G, {RATES}}}",
    ]
    shards = on_cluster(chain, tmp_path, machines, measurer).plan.shards
    (card,) = [shard for shard in shards if shard.machine is None]
    assert card.device == DeviceConfig(provider="cuda", index=1, options=(("k", "v"),), memory_bytes=1 << 30)
    assert card.python == "/p"
    assert {shard.machine for shard in shards} == {None, "far-0", "far-1"}
    assert {shard.device.name for shard in shards if shard.machine and shard.device} == {"webgpu:0"}
    assert measurer.asked[-1] == "cuda:1"


@pytest.mark.parametrize(
    ("machine", "complaint"),
    [
        ("{name: a, device: nope}", "machine a: device nope: there is no provider"),
        ("{name: a, device: cuda, count: 2}", "a machine at hand is measured, so it takes no count"),
        ("{name: a, cpus: [0], provider_options: {k: v}}", "provider_options can only be given with a device"),
        ("{name: a, cpus: [0], python: /p}", "python can only be given for a device of this machine"),
        (
            f"{{name: a, device: cuda, python: /p, cores: 1, memory: 1G, {RATES}}}",
            "python can only be given for a device of this",
        ),
        ("{name: a, device: cuda, cpu_quota: 0.5}", "cpu_quota can only be given with cpus"),
    ],
)
def test_what_contradicts_itself_in_a_file_is_refused(
    machine: str, complaint: str, chain: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=complaint):
        on_cluster(chain, tmp_path, [f"  - {machine}"], FakeMeasurer())


def test_named_devices_go_with_this_machine_alone(chain: Path, tmp_path: Path) -> None:
    file = tmp_path / "machines.yaml"
    file.write_text(f"machines:\n  - {{name: a, cores: 1, memory: 1G, {RATES}}}\n{LINK}\n")
    config = GraphLaunchConfig(
        model=str(chain),
        split="auto",
        planning=PlanningConfig(cluster=str(file)),
        devices=DevicesConfig(names=("cuda",)),
    )
    with pytest.raises(ConfigError, match="in a cluster file"):
        plan_graph(config, make_measurer=FakeMeasurer())


def test_nothing_is_looked_for_where_there_is_no_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offers, "_find_all", lambda config: pytest.fail("it was looked for"))
    for names in ((), ("auto",), ("cpu",)):
        assert offers.offered_devices(DevicesConfig(names=names)) == Offer()


def test_the_devices_of_another_environment_are_offered(openvino_python: str) -> None:
    python = f"openvino={openvino_python}"
    both = offers.offered_devices(DevicesConfig(pythons=(python,)))
    assert [(one.device.name, one.python) for one in both.devices] == [("openvino:0", openvino_python)]
    assert both.with_processor
    assert not offers.offered_devices(DevicesConfig(names=("openvino",), pythons=(python,))).with_processor
