"""`--split auto` for a model of speech: what its encoder takes decides which machines are used, and how."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from shoal.config import DevicesConfig, LaunchConfig, PlanningConfig
from shoal.errors import ConfigError
from shoal.launch.language.planning import PlannedModel, plan_model
from shoal.measure.language.fleet import measure_fleet
from shoal.measure.slots import Slot
from shoal.model.on_disk import ModelOnDisk
from tests.model.tiny_whisper import make_tiny_whisper

SMALL = {
    "model_type": "whisper",
    "architectures": ["WhisperForConditionalGeneration"],
    "vocab_size": 51865,
    "num_mel_bins": 80,
    "d_model": 768,
    "encoder_layers": 12,
    "encoder_attention_heads": 12,
    "encoder_ffn_dim": 3072,
    "decoder_layers": 12,
    "decoder_attention_heads": 12,
    "decoder_ffn_dim": 3072,
    "max_source_positions": 1500,
    "max_target_positions": 448,
    "activation_function": "gelu",
}
"""of openai/whisper-small"""
ENCODER_FLOPS = 1500 * 12 * (2 * 12 * 768**2 + 4 * 1500 * 768)
"""products and scores, without the convolutions"""
FAST, SLOW = 400e9, 100e9
MACHINE = """
  - {{name: {name}, cores: 8, memory: {memory}, rates: {{memory_bytes_per_s: 4e10, fp32_flops_per_s: {rate:.3e}}}}}"""


def cluster(folder: Path, *rates: float, memory: str = "32G") -> str:
    machines = [MACHINE.format(name=f"m{index}", rate=rate, memory=memory) for index, rate in enumerate(rates)]
    link = "{latency_s: 1e-4, bytes_per_s: 1e9}" if len(rates) > 1 else None
    (folder / "machines.yaml").write_text("machines:" + "".join(machines) + (f"\nlink: {link}" if link else ""))
    return str(folder / "machines.yaml")


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Enough to plan for machines that are described."""
    folder = tmp_path_factory.mktemp("whisper-small")
    (folder / "config.json").write_text(json.dumps(SMALL))
    return folder


def planned(model: Path, cluster_file: str, **more: object) -> PlannedModel:
    planning = PlanningConfig(
        objective="throughput",
        streams=8,
        prompt_tokens=4,
        output_tokens=100,
        cluster=cluster_file,
        settings_suffice=True,
    )
    config = LaunchConfig(model=str(model), split="auto", precision="fp32", max_seqs=24, planning=planning)
    return plan_model(replace(config, **more))


def clips_per_s(found: PlannedModel) -> float:
    assert found.auto is not None
    return found.auto.choice.best.prediction.output_tokens_per_s / 100


def test_unlike_machines_each_hold_a_copy_and_take_clips_by_their_speed(settings: Path, tmp_path: Path) -> None:
    both = planned(settings, cluster(tmp_path, FAST, SLOW))
    assert both.plan.split == "dp=2"
    alone = [clips_per_s(planned(settings, cluster(tmp_path, rate))) for rate in (FAST, SLOW)]
    assert clips_per_s(both) == pytest.approx(sum(alone), rel=0.25)
    assert clips_per_s(both) > 1.1 * alone[0]
    assert alone[0] < FAST / ENCODER_FLOPS, "no machine is faster than its encoder"


def test_where_no_machine_has_room_for_all_the_encoder_has_fewer_layers_beside_it(
    settings: Path, tmp_path: Path
) -> None:
    found = planned(settings, cluster(tmp_path, FAST, FAST, memory="1300M"))
    (replica,) = found.plan.replicas
    first, last = replica.stages
    assert first.num_layers < last.num_layers
    assert all(len(stage.shards) == 1 for stage in replica.stages), "a model with an encoder is not cut into shards"


def test_an_encoder_is_measured_with_the_rest(tmp_path: Path) -> None:
    model = ModelOnDisk(make_tiny_whisper(tmp_path / "tiny"), name="tiny")
    (worker,) = measure_fleet(model, ["fp32"], [Slot(cores=(0,))]).classes
    clip = worker.alone["fp32"].clip
    assert clip is not None
    assert clip.num_rows == 48
    assert clip.encoder_s > clip.layer_s > 0.0, "its four layers have six times the products that a layer has"


def test_devices_are_refused_by_name(settings: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="computed on processors"):
        planned(settings, cluster(tmp_path, FAST), devices=DevicesConfig(names=("cpu", "webgpu")))
