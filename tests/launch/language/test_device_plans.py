"""`--split auto` of a language model on a machine with devices, and cluster files that name devices."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from shoal.config import DevicesConfig, LaunchConfig, PlanningConfig
from shoal.errors import ConfigError, WorkerLost
from shoal.launch import devices as offers
from shoal.launch.devices import Offer, OfferedDevice
from shoal.launch.language import device_fleets, fleets
from shoal.launch.language.planning import PlannedModel, plan_model
from shoal.measure.language.fleet import class_of_each
from shoal.measure.measuring import Measuring
from shoal.measure.slots import Slot
from shoal.model.on_disk import ModelOnDisk
from shoal.planner.speeds.speeds import Fleet, LinkSpeed, WorkerClass
from shoal.protocol.device_config import DeviceConfig
from tests.model.tiny_models import make_tiny_model
from tests.planner.choice.example_fleets import make_speed

GPU, SLOW = DeviceConfig(provider="cuda"), DeviceConfig(provider="webgpu", index=1)
LINK = LinkSpeed(latency_s=1e-6, bytes_per_s=1e10)
Asked = list[list[str]]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model("llama", tmp_path_factory.mktemp("model"))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    """What is measured together, one after the other. The GPU is as quick as the processor."""
    return measured_as({"cuda:0": 1.0, "webgpu:1": 100.0}, monkeypatch)


def measured_as(slowness: Mapping[str, float], monkeypatch: pytest.MonkeyPatch, fails: Sequence[str] = ()) -> Asked:
    asked: Asked = []

    def measure(
        model: ModelOnDisk, precisions: Sequence[str], slots: Sequence[Slot], measuring: Measuring, start: object = None
    ) -> Fleet:
        names = [str(slot) if slot.device else "cpu" for slot in slots]
        asked.append(names)
        if failed := [name for name in names if name in fails]:
            raise WorkerLost(f"profile 0 ({failed[0]}): no driver")
        kinds = class_of_each(slots)
        firsts = [slots[kinds.index(kind)] for kind in sorted(set(kinds))]
        return Fleet(
            classes=tuple(worker(slot, kinds.count(index), slowness) for index, slot in enumerate(firsts)),
            links=((LINK,) * len(firsts),) * len(firsts),
            sums=((LINK,) * len(firsts),) * len(firsts),
        )

    def worker(slot: Slot, count: int, slowness: Mapping[str, float]) -> WorkerClass:
        speed = {
            "fp32": make_speed(
                slowness.get(str(slot), 1.0) / slot.threads if slot.device is None else slowness[str(slot)]
            )
        }
        name, takes_shards = str(slot), slot.device is None
        return WorkerClass(
            name=name, count=count, threads=1, memory_bytes=1 << 30, alone=speed, busy=speed, takes_shards=takes_shards
        )

    monkeypatch.setattr(fleets, "measure_fleet", measure)
    monkeypatch.setattr(device_fleets, "measure_fleet", measure)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0})
    return asked


def plan(
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *devices: DeviceConfig,
    memory_bytes: int | None = None,
    with_processor: bool = True,
) -> PlannedModel:
    offered = tuple(OfferedDevice(device=one, python="/p", memory_bytes=memory_bytes) for one in devices)
    offer = Offer(devices=offered, with_processor=with_processor)
    monkeypatch.setattr(offers, "offered_devices", lambda config: offer)
    planning = PlanningConfig(objective="throughput", streams=8, prompt_tokens=16, output_tokens=16)
    config = LaunchConfig(model=str(path), split="auto", precision="fp32", max_context=64, planning=planning)
    return plan_model(config)


def used(planned: PlannedModel) -> list[tuple[int, str, str | None]]:
    """Layers of every stage, what computes them, and which Python runs it."""
    return [
        (stage.num_layers, shard.device.name if shard.device else "cpu", shard.python)
        for replica in planned.plan.replicas
        for stage in replica.stages
        for shard in stage.shards
    ]


def reasons(planned: PlannedModel) -> dict[str, str]:
    assert planned.auto is not None
    return {option.what: option.reason for option in planned.auto.devices}


def test_every_device_is_measured_alone_and_beside_the_processor(
    model: Path, asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = plan(model, monkeypatch, GPU)
    assert asked == [["cpu"], ["cuda:0"], ["cuda:0"], ["cpu", "cuda:0"]]
    assert sorted(used(planned)) == [(4, "cpu", None), (4, "cuda:0", "/p")], "a copy on each"
    found = reasons(planned)
    assert list(found) == ["the processor alone", "cuda:0 alone", "the processor and cuda:0"]
    assert "worse by throughput" in found["cuda:0 alone"]
    assert found["the processor and cuda:0"] == ""


def test_beside_a_device_the_processor_has_a_worker_a_node(
    model: Path, asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3})
    monkeypatch.setattr(fleets, "node_cpus", lambda: {0: (0, 2), 1: (1, 3)})
    planned = plan(model, monkeypatch, GPU)
    assert asked[-1] == ["cpu", "cpu", "cuda:0"]
    nodes = {frozenset(shard.cores) for shard in planned.plan.shards if shard.device is None}
    assert nodes <= {
        frozenset({0, 2}),
        frozenset({1, 3}),
        frozenset({0}),
        frozenset({1}),
        frozenset({2}),
        frozenset({3}),
    }


def test_a_device_that_would_slow_the_whole_down_is_left_out(
    model: Path, asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = plan(model, monkeypatch, SLOW)
    assert asked == [["cpu"], ["webgpu:1"]]
    assert used(planned) == [(4, "cpu", None)]
    assert "100 times as slow as the processor alone" in reasons(planned)["webgpu:1 beside others"]


def test_a_model_larger_than_the_device_has_its_other_layers_on_the_processor(
    model: Path, asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = plan(model, monkeypatch, GPU, memory_bytes=700_000)
    layers = {name: count for count, name, _ in used(planned)}
    assert layers.keys() == {"cpu", "cuda:0"}
    assert sum(layers.values()) == 4
    assert reasons(planned)["cuda:0 alone"], "it does not hold the model"


def test_a_device_that_cannot_be_measured_is_named_with_its_reason(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured_as({"cuda:0": 1.0}, monkeypatch, fails=["cuda:0"])
    assert reasons(plan(model, monkeypatch, GPU))["cuda:0 alone"] == "no driver"
    with pytest.raises(ConfigError, match="no device can be used: cuda:0: no driver"):
        plan(model, monkeypatch, GPU, with_processor=False)


def test_a_model_without_an_onnx_form_is_computed_by_the_processor(
    tmp_path: Path, asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = plan(make_tiny_model("lfm2", tmp_path / "lfm2"), monkeypatch, GPU)
    assert asked == [["cpu"]]
    assert reasons(planned)["cuda:0 alone"] == "lfm2 has recurrent layers, without an ONNX form: processors compute it"


def test_nothing_is_said_of_devices_where_there_are_none(
    model: Path, asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert reasons(plan(model, monkeypatch)) == {}


def on_cluster(path: Path, folder: Path, *machines: str) -> PlannedModel:
    file = folder / "machines.yaml"
    file.write_text("\n".join(["machines:", *machines, "link: {latency_s: 1e-5, bytes_per_s: 1e10}"]))
    planning = PlanningConfig(objective="throughput", cluster=str(file), streams=8, prompt_tokens=16, output_tokens=16)
    config = LaunchConfig(model=str(path), split="auto", precision="fp32", max_context=64, planning=planning)
    return plan_model(config)


def test_devices_of_a_file_are_measured_with_its_cores_and_take_whole_stages(
    model: Path, asked: Asked, tmp_path: Path
) -> None:
    here = ("  - {name: here, cpus: [0]}", "  - {name: card, device: cuda, memory: 1G, python: /p}")
    planned = on_cluster(model, tmp_path, *here)
    assert asked == [["cpu", "cuda:0"]]
    assert sorted(used(planned)) == [(4, "cpu", None), (4, "cuda:0", "/p")]
    rates = "rates: {memory_bytes_per_s: 1e10, fp32_flops_per_s: 1e11}"
    cards = f"  - {{name: cards, count: 4, device: cuda, cores: 1, memory: 1G, {rates}}}"
    planned = on_cluster(model, tmp_path, cards)
    assert {len(stage.shards) for replica in planned.plan.replicas for stage in replica.stages} == {1}


def test_named_devices_go_with_this_machine_alone(model: Path, tmp_path: Path) -> None:
    file = tmp_path / "machines.yaml"
    file.write_text("machines:\n  - {name: here, cpus: [0]}\nlink: {latency_s: 1e-5, bytes_per_s: 1e10}")
    planning = PlanningConfig(cluster=str(file))
    config = LaunchConfig(
        model=str(model), split="auto", planning=planning, devices=DevicesConfig(names=("cpu", "cuda"))
    )
    with pytest.raises(ConfigError, match="in a cluster file"):
        plan_model(config)


def test_a_device_is_measured_for_real(
    model: Path, openvino_python: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """How fast it is depends on the machine; that all ways were measured and one was taken does not."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    devices = DevicesConfig(names=("auto",), pythons=(openvino_python,))
    planning = PlanningConfig(is_rough=True, streams=2, prompt_tokens=16, output_tokens=16)
    config = LaunchConfig(
        model=str(model), split="auto", precision="fp32", threads=1, devices=devices, planning=planning
    )
    planned = plan_model(config)
    found = reasons(planned)
    assert list(found)[:2] == ["the processor alone", "openvino:0 alone"] or "openvino:0 beside others" in found
    assert list(found.values()).count("") == 1
