"""Measuring a tiny model for real, and not measuring what is known. Nothing here depends on how fast anything is."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from shoal.core.plan.devices.description import Hardware, MachineDevices, Processor, ProviderDevice
from shoal.errors import ModelLoadError, WorkerLost
from shoal.executor.process import cpu_quota
from shoal.measure.devices import setting
from shoal.measure.language.fleet import class_of_each, is_measured, measure_fleet, measure_machine
from shoal.measure.language.links import PairSpeeds
from shoal.measure.language.measurer import ClassSpeed, LinkTimes, ModelSpeeds, Progress
from shoal.measure.language.process import ProfileTeam
from shoal.measure.language.rates import LayoutRates, measure_layout
from shoal.measure.language.timed_model import ModelToTime
from shoal.measure.measuring import Measuring
from shoal.measure.slots import Slot
from shoal.model.on_disk import ModelOnDisk
from shoal.planner.speeds.speeds import BlockSpeed, Curve, LinkSpeed, WorkerSpeed
from shoal.protocol.device_config import DeviceConfig
from shoal.protocol.profile_messages import Echo, LoadPart
from shoal.protocol.stage_config import StageConfig
from tests.integration.leaks import no_leaks
from tests.model.tiny_models import make_tiny_gguf
from tests.planner.example_speeds import example_worker

CORE = min(os.sched_getaffinity(0))
PAIR = (Slot(cores=(CORE,)), Slot(cores=(CORE,)))
"""On the same core: slow, and nobody minds."""


class FakeMeasurer:
    """Knows everything at once. Implements `Measurer`; counts what it is asked."""

    def __init__(self, slots: Sequence[Slot]) -> None:
        self.slots = slots
        self.asked: list[str] = []

    def __call__(self, slots: Sequence[Slot]) -> FakeMeasurer:
        assert slots == self.slots
        return self

    def __enter__(self) -> FakeMeasurer:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def links(self) -> LinkTimes:
        self.asked.append("links")
        link = LinkSpeed(latency_s=1e-5, bytes_per_s=1e9)
        return LinkTimes(
            pair=PairSpeeds(ring=link, tcp=link, sums=link) if len(self.slots) > 1 else None,
            message_s=1e-4,
            turn=Curve(rows=(1,), seconds=(1e-5,)),
        )

    def rates(self) -> LayoutRates:
        self.asked.append("rates")
        return LayoutRates(num_workers=1, threads=1, copy_bytes_per_s=1e9, products={}, message_s=1e-4)

    def speeds(self, model: ModelToTime, on_progress: Progress, *, is_rough: bool) -> ModelSpeeds:
        self.asked.append(f"{model.precision}, roughly" if is_rough else model.precision)
        kinds = {slot.kind for slot in self.slots}
        classes = tuple(
            ClassSpeed(alone=example_worker(index + 1), busy=example_worker(index + 2)) for index in range(len(kinds))
        )
        return ModelSpeeds(classes=classes, others_share=0.5 if is_rough else 0.25)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ModelOnDisk:
    return ModelOnDisk(make_tiny_gguf(tmp_path_factory.mktemp("model")))


@pytest.fixture(autouse=True)
def _empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def all_times(speed: WorkerSpeed) -> list[float]:
    def of_block(block: BlockSpeed) -> list[float]:
        return [*block.decode.seconds, *block.prefill.seconds, block.fixed_s, block.fixed_row_s]

    return [
        *of_block(speed.attention),
        *of_block(speed.mlp),
        *of_block(speed.head),
        *speed.decode_context.seconds,
        speed.prefill_context_s,
        speed.step_s,
    ]


@pytest.mark.parametrize("is_rough", [False, True])
def test_a_tiny_model_on_two_workers_is_measured_and_nothing_is_left(model: ModelOnDisk, is_rough: bool):
    with no_leaks():
        fleet = measure_fleet(model, ["int4"], PAIR, Measuring(is_rough=is_rough))
    (kind,) = fleet.classes
    assert (kind.name, kind.count, kind.threads) == ("1 thread", 2, 1)
    assert kind.memory_bytes > 0
    assert kind.is_rough == is_rough
    assert 0.0 <= kind.others_share <= 1.0
    for speeds in (kind.alone, kind.busy):
        assert min(all_times(speeds["int4"])) >= 0.0
        assert min(speeds["int4"].mlp.prefill.seconds) > 0.0
        assert speeds["int4"].step_s > 0.0
    assert fleet.links[0][0].latency_s > 0
    assert fleet.sums[0][0].seconds(4096) > 0
    assert fleet.message_s > 0
    assert min(fleet.turn.seconds) > 0


def test_one_worker_is_never_busier_than_alone(model: ModelOnDisk):
    fleet = measure_fleet(model, ["fp32"], PAIR[:1])
    assert fleet.classes[0].alone == fleet.classes[0].busy


def test_what_is_known_starts_no_process(model: ModelOnDisk):
    fake = FakeMeasurer(PAIR)
    first = measure_fleet(model, ["int4"], PAIR, start=fake)
    assert fake.asked == ["links", "int4"]
    again = measure_fleet(model, ["int4"], PAIR, start=fake)
    assert fake.asked == ["links", "int4"]
    assert (again.classes[0].busy, again.links, again.turn) == (first.classes[0].busy, first.links, first.turn)


@pytest.mark.parametrize(
    "changed", [{"package": "onnxruntime-gpu 1.33"}, {"driver": "nvidia 571"}, {"runtime": "1.33"}]
)
def test_a_device_is_measured_anew_with_another_release_or_driver(
    changed: dict[str, str], model: ModelOnDisk, monkeypatch: pytest.MonkeyPatch
):
    slots = (Slot(cores=(), device=DeviceConfig(provider="cuda"), python="/gpu/python"),)
    asked: list[int] = []
    for told in ({}, {}, changed, {}):
        monkeypatch.setattr(setting, "find_devices", lambda python, told=told: gpu_machine(**told))
        setting._setting.cache_clear()
        fake = FakeMeasurer(slots)
        measure_fleet(model, ["int4"], slots, start=fake)
        asked.append(len(fake.asked))
    setting._setting.cache_clear()
    assert asked == [2, 0, 2, 0]


def gpu_machine(package: str = "onnxruntime-gpu 1.32", driver: str = "570", runtime: str = "1.32") -> MachineDevices:
    device = ProviderDevice(provider="cuda", index=0, kind="gpu", title="", package=package, problem=None)
    card = Hardware(title="H200", kind="gpu", vendor="nvidia", memory_bytes=None, driver=driver)
    processor = Processor(name="", instruction_sets=(), nodes=())
    return MachineDevices(processor=processor, hardware=(card,), devices=(device,), runtime=runtime)


def test_another_precision_measures_only_that(model: ModelOnDisk):
    fake = FakeMeasurer(PAIR)
    measure_fleet(model, ["int4"], PAIR, start=fake)
    measure_fleet(model, ["int4", "fp32"], PAIR, start=fake)
    assert fake.asked == ["links", "int4", "fp32"]


def test_the_same_model_elsewhere_is_known_and_another_is_not(model: ModelOnDisk, tmp_path: Path):
    fake = FakeMeasurer(PAIR)
    measure_fleet(model, ["int4"], PAIR, start=fake)
    moved = tmp_path / "moved.gguf"
    moved.write_bytes(model.path.read_bytes())
    measure_fleet(ModelOnDisk(moved), ["int4"], PAIR, start=fake)
    assert fake.asked == ["links", "int4"]
    measure_fleet(ModelOnDisk(make_tiny_gguf(tmp_path / "other", quant="Q8_0")), ["auto"], PAIR, start=fake)
    assert fake.asked == ["links", "int4", "auto"]


def test_rough_figures_are_kept_for_the_next_hurry_only(model: ModelOnDisk):
    fake = FakeMeasurer(PAIR)
    for _ in range(2):
        (kind,) = measure_fleet(model, ["int4"], PAIR, Measuring(is_rough=True), start=fake).classes
        assert (kind.is_rough, kind.others_share) == (True, 0.5)
    assert fake.asked == ["links", "int4, roughly"]
    assert not is_measured(model, ["int4"], PAIR)
    (kind,) = measure_fleet(model, ["int4"], PAIR, start=fake).classes
    assert (kind.is_rough, kind.others_share) == (False, 0.25)
    assert fake.asked == ["links", "int4, roughly", "int4"]


def test_thorough_figures_are_good_enough_in_a_hurry(model: ModelOnDisk):
    fake = FakeMeasurer(PAIR)
    measure_fleet(model, ["int4"], PAIR, start=fake)
    assert is_measured(model, ["int4"], PAIR)
    (kind,) = measure_fleet(model, ["int4"], PAIR, Measuring(is_rough=True), start=fake).classes
    assert (kind.is_rough, kind.others_share) == (False, 0.25)
    assert fake.asked == ["links", "int4"]


def test_refresh_measures_all_again(model: ModelOnDisk):
    fake = FakeMeasurer(PAIR)
    for _ in range(2):
        measure_fleet(model, ["int4"], PAIR, Measuring(refresh=True), start=fake)
    assert fake.asked == ["links", "int4"] * 2


def test_a_broken_file_is_measured_anew(model: ModelOnDisk, tmp_path: Path):
    fake = FakeMeasurer(PAIR)
    measure_fleet(model, ["int4"], PAIR, start=fake)
    for path in (tmp_path / "shoal" / "profiles").iterdir():
        path.write_text(path.read_text()[:-20])
    measure_fleet(model, ["int4"], PAIR, start=fake)
    assert fake.asked == ["links", "int4"] * 2


def test_other_slots_are_other_measurements(model: ModelOnDisk):
    slower = (Slot(cores=(CORE,)), Slot(cores=(CORE,), cpu_quota=0.5))
    measure_fleet(model, ["int4"], PAIR, start=FakeMeasurer(PAIR))
    fake = FakeMeasurer(slower)
    fleet = measure_fleet(model, ["int4"], slower, start=fake)
    assert fake.asked == ["links", "int4"]
    assert [kind.count for kind in fleet.classes] == [1, 1]
    assert fleet.classes[0].busy != fleet.classes[1].busy
    assert class_of_each(slower) == [0, 1]
    assert len(fleet.links) == len(fleet.sums) == 2


def test_workers_are_described_without_a_model():
    with no_leaks(), ProfileTeam(PAIR) as team:
        rates = measure_layout(team, memory_bytes=1 << 20)
    assert (rates.num_workers, rates.threads) == (2, 1)
    assert rates.copy_bytes_per_s > 0
    assert rates.pair is not None
    assert set(rates.products) == {"fp32", "int8", "int4"}
    for product in rates.products.values():
        assert min(product.read_bytes_per_s, product.busy_read_bytes_per_s) > 0
        assert min(product.flops_per_s, product.busy_flops_per_s) > 0


def test_a_machine_is_described_once_a_layout():
    fakes = {slots: FakeMeasurer(slots) for slots in (PAIR, PAIR[:1])}
    for _ in range(2):
        rates = measure_machine([PAIR, PAIR[:1]], start=lambda slots: fakes[tuple(slots)])
    assert len(rates.layouts) == 2
    assert [fake.asked for fake in fakes.values()] == [["rates"], ["rates"]]


def test_a_model_that_cannot_be_loaded_is_named_and_nothing_is_left(model: ModelOnDisk, tmp_path: Path):
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(model.path.read_bytes()[: -(64 << 10)])
    with no_leaks(), pytest.raises(ModelLoadError):
        measure_fleet(ModelOnDisk(broken), ["int4"], PAIR)


def test_a_process_that_dies_is_reported_and_the_others_end():
    with no_leaks():
        team = ProfileTeam(PAIR)
        os.kill(team.pids[1], 9)
        with pytest.raises(WorkerLost, match="killed by signal 9"):
            team.ask_all(Echo(payload=b""))
        team.close()


def test_what_a_process_fails_with_reaches_the_caller(tmp_path: Path):
    load = LoadPart(
        name="long",
        model_path=str(tmp_path / "none.gguf"),
        stage=StageConfig(
            first_layer=0,
            last_layer=1,
            precision="int4",
            threads=1,
            num_blocks=1,
            block_size=16,
            max_step_tokens=1,
            max_context=16,
        ),
    )
    with no_leaks(), ProfileTeam(PAIR[:1]) as team, pytest.raises(ModelLoadError):
        team.ask(0, load)


@pytest.mark.skipif(cpu_quota.why_not() is not None, reason=str(cpu_quota.why_not()))
def test_a_slot_is_held_to_its_quota_while_it_is_measured():
    with ProfileTeam((Slot(cores=(CORE,), cpu_quota=0.5),)) as team:
        (pid,) = team.pids
        assert "shoal-quota-" in Path(f"/proc/{pid}/cgroup").read_text()
    assert not list(Path("/sys/fs/cgroup").glob("**/shoal-quota-*"))
