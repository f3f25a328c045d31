"""A worker's packed weights: what it gets, what it reads of the model's file, and what stays in memory."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from shoal.model.attention.paged_attention import native_available
from shoal.model.file_states import model_states
from shoal.model.formats.open_weights import open_weights
from shoal.model.formats.quantization import dequantize
from shoal.model.packed.kept_weights import KeptWeights
from shoal.model.packed.loader import PackedWeights
from shoal.model.shard.source import ShardSource
from shoal.model.weights import WeightSource
from shoal.protocol.stage_config import ShardPart
from tests.model.tiny_models import make_tiny_gguf, tiny_llama_tensors, write_gguf

pytestmark = pytest.mark.skipif(not native_available(), reason="the native extension is not built")
LEAVES = ["q", "k", "v", "o", "gate", "up", "down"]
HALVES = (
    ShardPart(kv_heads=(0, 1), columns=(0, 64), vocabulary=(0, 160)),
    ShardPart(kv_heads=(1, 2), columns=(64, 128), vocabulary=(160, 320)),
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return make_tiny_gguf(tmp_path, quant="Q4_1")


def packed(source: WeightSource, path: Path | None = None, root: Path | None = None) -> PackedWeights:
    from shoal._native import ThreadPool

    kept = None
    if path is not None and root is not None:
        kept = KeptWeights(root, lambda: model_states(path), "auto", max_bytes=1 << 30)
    return PackedWeights(source, "auto", pool=ThreadPool(2), kept=kept)


def values_of(matrix) -> np.ndarray:
    values = np.empty(matrix.shape, np.float32)
    matrix.unpack_rows(np.arange(matrix.shape[0], dtype=np.int32), values)
    return values


def check_all(weights: PackedWeights, source: WeightSource) -> None:
    for layer in range(source.config.num_layers):
        matrices = weights.layer(layer)
        assert list(matrices) == LEAVES
        for leaf, matrix in matrices.items():
            expected = dequantize(source.matrix(f"layers.{layer}.{leaf}", "auto"))
            np.testing.assert_allclose(values_of(matrix), expected, rtol=1e-5, atol=1e-6)
    for name, matrix in (("embedding", weights.embedding()), ("head", weights.head())):
        np.testing.assert_allclose(
            values_of(matrix), dequantize(source.matrix(name, "auto")), rtol=1e-5, atol=1e-6, err_msg=name
        )


def test_into_the_processs_own_memory(path: Path) -> None:
    check_all(packed(open_weights(path)), open_weights(path))


def test_kept_weights_are_the_same(path: Path, tmp_path: Path) -> None:
    root = tmp_path / "kept"
    for _ in range(2):
        check_all(packed(open_weights(path), path, root), open_weights(path))
    num_layers = open_weights(path).config.num_layers
    assert len(list(root.glob("*/layer-*.packed"))) == num_layers


@pytest.mark.parametrize("part", HALVES)
def test_shards_are_kept_apart_from_each_other_and_the_whole(path: Path, tmp_path: Path, part: ShardPart) -> None:
    root = tmp_path / "kept"
    check_all(packed(open_weights(path), path, root), open_weights(path))
    shard = ShardSource(open_weights(path), part)
    check_all(packed(shard, path, root), shard)
    check_all(packed(open_weights(path), path, root), open_weights(path))


def test_kept_weights_are_not_read_from_the_models_file(path: Path, tmp_path: Path) -> None:
    root = tmp_path / "kept"
    first = packed(open_weights(path), path, root)
    source = open_weights(path)
    later = packed(source, path, root)
    expected = [values_of(matrix) for matrix in first.layer(0).values()]
    source.raw_rows = source.matrix = None  # type: ignore[method-assign, assignment]
    for matrix, values in zip(later.layer(0).values(), expected, strict=True):
        np.testing.assert_array_equal(values_of(matrix), values)


def test_a_tied_head_is_the_embedding(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "tied.gguf", "llama", tiny_llama_tensors(), quant="Q8_0")
    source = open_weights(path)
    assert source.config.tied_embeddings
    weights = packed(source, path, tmp_path / "kept")
    assert weights.head() is weights.embedding()
    assert [one.name for one in (tmp_path / "kept").glob("*/*.packed")] == ["embedding.rows-0-320.packed"]


def resident_bytes(path: Path) -> int:
    """What a mapped file takes of this process."""
    smaps = Path("/proc/self/smaps").read_text()
    regions = re.split(r"(?m)^(?=[0-9a-f]+-[0-9a-f]+ )", smaps)
    resident = (re.search(r"Rss: +(\d+) kB", region) for region in regions if str(path) in region.split("\n", 1)[0])
    return sum(int(found[1]) << 10 for found in resident if found)


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="reads /proc")
def test_the_models_file_takes_no_memory_afterwards(path: Path) -> None:
    source = open_weights(path)
    source.matrix("embedding", "auto")
    assert resident_bytes(path) > 0
    weights = packed(source)
    layers = [weights.layer(layer) for layer in range(source.config.num_layers)]
    weights.embedding()
    assert resident_bytes(path) == 0
    assert len(layers) == source.config.num_layers


def test_writing_over_the_models_file_changes_nothing(path: Path) -> None:
    matrices = packed(open_weights(path)).layer(0)
    before = [values_of(matrix) for matrix in matrices.values()]
    path.write_bytes(bytes(path.stat().st_size))
    for matrix, values in zip(matrices.values(), before, strict=True):
        np.testing.assert_array_equal(values_of(matrix), values)
