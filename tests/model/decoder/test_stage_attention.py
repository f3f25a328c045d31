"""What the layers of a stage share."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from shoal.model.attention.rope import rope_tables
from shoal.model.decoder.forced_form import ForcedForm
from shoal.model.decoder.stage_attention import StageAttention
from shoal.model.formats.open_weights import open_weights
from shoal.model.weights import WeightSource
from shoal.protocol.stage_config import StageConfig
from tests.model.tiny_models import make_tiny_gguf


@pytest.mark.parametrize("windows", [(), (4, 0, 4, 0)], ids=["one-rope", "two-ropes"])
def test_layers_with_the_same_rope_share_its_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, windows: tuple[int, ...]
) -> None:
    decoder = open_weights(make_tiny_gguf(tmp_path)).config
    assert decoder.num_layers == 4
    if windows:
        decoder = replace(decoder, layer_windows=windows, local_rope=replace(decoder.rope, theta=100.0))
    made: list[float] = []

    def tables(rope, *sizes):
        made.append(rope.theta)
        return rope_tables(rope, *sizes)

    monkeypatch.setattr("shoal.model.decoder.stage_attention.rope_tables", tables)
    config = StageConfig(
        first_layer=0,
        last_layer=4,
        precision="auto",
        threads=1,
        num_blocks=4,
        block_size=16,
        max_step_tokens=8,
        max_context=64,
    )
    assert len(StageAttention(cast(WeightSource, SimpleNamespace(config=decoder)), config, ForcedForm()).layers) == 4
    assert sorted(made) == sorted({decoder.rope.theta, *([100.0] if windows else [])})
