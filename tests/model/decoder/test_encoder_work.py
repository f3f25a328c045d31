"""What an encoder computes counts where it is: in a pipeline's first stage."""

from __future__ import annotations

from pathlib import Path

import pytest

from shoal.model.decoder.blocks import decoder_blocks
from shoal.model.formats.open_weights import open_weights
from shoal.planner.split.balance import balance_layers, stage_costs
from tests.model.tiny_whisper import NUM_LAYERS, NUM_MELS, NUM_POSITIONS, make_tiny_whisper

HIDDEN, COLUMNS = 64, 128


def test_the_first_stage_has_fewer_layers_beside_an_encoder(tmp_path: Path) -> None:
    blocks = decoder_blocks(open_weights(make_tiny_whisper(tmp_path)), "fp32")
    products = 2 * NUM_LAYERS * (4 * HIDDEN * HIDDEN + 2 * HIDDEN * COLUMNS)
    attention = NUM_LAYERS * 2 * 2 * NUM_POSITIONS * HIDDEN
    convolutions = 2 * 3 * HIDDEN * (2 * NUM_MELS + HIDDEN)
    encoder_flops = NUM_POSITIONS * (products + attention + convolutions)
    assert 500 * blocks[0].flops_per_token == pytest.approx(encoder_flops)
    costs = stage_costs(blocks)
    as_large = [20 * costs[1], *costs[1:-1], 0.0]
    assert balance_layers(as_large, 2)[0] < balance_layers([0.0, *costs[1:-1], 0.0], 2)[0] == NUM_LAYERS // 2
