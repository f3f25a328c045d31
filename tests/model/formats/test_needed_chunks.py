"""Which parts of a file a worker needs: enough to load its layers, and no more than those of others leave."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from shoal.model.decoder.stage import Stage
from shoal.model.formats import needed_chunks as subject
from shoal.model.formats.needed_chunks import needed_chunks
from shoal.model.formats.open_weights import open_weights
from shoal.protocol.stage_config import StageConfig
from tests.model.tiny_models import make_tiny_gguf
from tests.model.tiny_whisper import NUM_LAYERS, make_tiny_whisper

CHUNK = 1024
WEIGHTS = "model.safetensors"


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject, "CHUNK_BYTES", CHUNK)


def copy_chunks(path: Path, chunks: list[int], to: Path) -> Path:
    """The file with zeros in the place of all other chunks."""
    data = path.read_bytes()
    sparse = bytearray(len(data))
    for chunk in chunks:
        sparse[chunk * CHUNK : (chunk + 1) * CHUNK] = data[chunk * CHUNK : (chunk + 1) * CHUNK]
    to.write_bytes(sparse)
    return to


def load_stage(path: Path, first: int, last: int) -> Stage:
    config = StageConfig(
        first_layer=first,
        last_layer=last,
        precision="fp32",
        threads=1,
        num_blocks=4,
        block_size=16,
        max_step_tokens=8,
        max_context=64,
    )
    return Stage(open_weights(path), config)


@pytest.mark.parametrize(("first", "last"), [(0, 1), (1, 3), (3, 4), (0, 4)])
def test_a_stage_is_the_same_from_its_own_chunks(first: int, last: int, tmp_path: Path) -> None:
    path = make_tiny_gguf(tmp_path, quant="F32")
    source = open_weights(path)
    num_layers = source.config.num_layers
    (chunks,) = needed_chunks(path, first, last, num_layers).values()
    sparse = open_weights(copy_chunks(path, chunks, tmp_path / "sparse.gguf"))
    for layer in range(first, last):
        for name in ("q", "o", "gate", "down"):
            whole, part = (one.matrix(f"layers.{layer}.{name}", "fp32") for one in (source, sparse))
            np.testing.assert_array_equal(part.values_NK, whole.values_NK)
    num_all = -(-path.stat().st_size // CHUNK)
    assert (len(chunks) == num_all) == (last - first == num_layers)


@pytest.mark.parametrize(("first", "last"), [(0, 1), (1, 4)])
def test_an_encoder_goes_with_the_first_layer_whole(first: int, last: int, tmp_path: Path) -> None:
    """Its layers have numbers, too."""
    folder, sparse = make_tiny_whisper(tmp_path / "whole"), tmp_path / "sparse"
    shutil.copytree(folder, sparse)
    chunks = needed_chunks(folder, first, last, NUM_LAYERS)
    copy_chunks(folder / WEIGHTS, chunks[WEIGHTS], sparse / WEIGHTS)
    whole, part = open_weights(folder), open_weights(sparse)
    for layer in range(first, last):
        name = f"layers.{layer}.cross_q"
        np.testing.assert_array_equal(part.matrix(name, "fp32").values_NK, whole.matrix(name, "fp32").values_NK)
    for layer in range(NUM_LAYERS):
        values = part.matrix(f"encoder.layers.{layer}.up", "fp32").values_NK
        assert np.array_equal(values, whole.matrix(f"encoder.layers.{layer}.up", "fp32").values_NK) == (first == 0)
