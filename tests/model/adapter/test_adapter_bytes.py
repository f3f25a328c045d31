"""What a plan counts for adapters is what a stage holds, or a shard of one."""

from pathlib import Path

import numpy as np
import pytest

from shoal.config import LaunchConfig
from shoal.core.plan.language import held_bytes
from shoal.launch.language.planning import plan_model
from shoal.launch.language.sizes import model_sizes
from shoal.model.adapter.files import find_adapter
from shoal.model.decoder.stage import Stage
from shoal.model.on_disk import ModelOnDisk
from shoal.planner.memory.plan_memory import needed_memory
from shoal.planner.split.shares import shard_parts
from tests.model.tiny_adapters import tiny_adapter
from tests.model.tiny_models import make_tiny_model
from tests.numerics.engines import make_group, stage_config

RANK, FLOAT_BYTES, HALF_BYTES = 16, 4, 2
SHAPES = {
    "q": (64, 64),
    "k": (32, 64),
    "v": (32, 64),
    "o": (64, 64),
    "gate": (128, 64),
    "up": (128, 64),
    "down": (64, 128),
}
LAYERS = 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    model = make_tiny_model("llama", folder / "llama")
    tiny_adapter(model, folder / "wide", rank=RANK)
    tiny_adapter(model, folder / "narrow", rank=RANK, dtype=np.float16)
    return folder


def counted(model: ModelOnDisk) -> int:
    return held_bytes(model.blocks("fp32"))


@pytest.mark.parametrize(("name", "item_bytes"), [("wide", FLOAT_BYTES), ("narrow", HALF_BYTES)])
def test_an_adapter_takes_its_numbers_at_their_own_width(folder: Path, name: str, item_bytes: int) -> None:
    file = find_adapter("a", folder / name)
    model, plain = ModelOnDisk(folder / "llama", adapters=[file]), ModelOnDisk(folder / "llama")
    numbers = LAYERS * sum(RANK * (rows + columns) for rows, columns in SHAPES.values())
    assert counted(model) - counted(plain) == numbers * item_bytes == model.total_adapter_bytes
    stage = Stage(model.file_source, stage_config(model.file_source), adapters=[file])
    without = Stage(plain.source, stage_config(plain.source))
    assert stage.weight_bytes - without.weight_bytes == numbers * item_bytes


def test_shards_hold_their_parts(folder: Path) -> None:
    file = find_adapter("a", folder / "narrow")
    model, plain = ModelOnDisk(folder / "llama", adapters=[file]), ModelOnDisk(folder / "llama")
    parts = shard_parts(model.atoms, (1, 1))
    group = make_group(model.file_source, stage_config(model.file_source), parts, adapters=[file])
    for part, shard in zip(parts, group.shards, strict=True):
        more = held_bytes(model.blocks("fp32", part)) - held_bytes(plain.blocks("fp32", part))
        assert 0 < more < model.total_adapter_bytes
        assert shard.weight_bytes == held_bytes(model.blocks("fp32", part))


def test_the_planner_and_the_memory_check_count_them(folder: Path) -> None:
    file = find_adapter("a", folder / "wide")
    model, plain = ModelOnDisk(folder / "llama", adapters=[file]), ModelOnDisk(folder / "llama")
    sizes = [model_sizes(one, ["fp32"], max_seqs=1).by_precision["fp32"].total_bytes for one in (model, plain)]
    assert sizes[0] - sizes[1] == model.total_adapter_bytes
    paths = {"a": str(folder / "wide")}
    needed = [
        needed_memory(
            plan_model(LaunchConfig(model=str(folder / "llama"), split="dp=2", adapters=adapters)).plan,
            shares_weights=True,
        )
        for adapters in (paths, dict[str, str]())
    ]
    assert needed[0].weight_bytes - needed[1].weight_bytes == model.total_adapter_bytes
    assert needed[0].total - needed[1].total > 2 * model.total_adapter_bytes - 2, "each copy has its own"
