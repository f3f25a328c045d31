from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from shoal.model.attention.kv_storage import KvStorage, kv_bytes_per_token, kv_dtype, whole_kv_dtype
from shoal.model.decoder_config import DecoderConfig
from shoal.model.layer_config.attention import RopeConfig
from shoal.model.weights import Precision

CONFIG = DecoderConfig(
    family="llama",
    num_layers=6,
    hidden_size=64,
    num_heads=4,
    num_kv_heads=2,
    head_dim=16,
    intermediate_size=128,
    vocab_size=100,
    max_context=256,
    norm_epsilon=1e-5,
    rope=RopeConfig(theta=10000.0, rotary_dim=16),
    attention_scale=0.25,
)


def test_layers_are_separate_zeroed_and_aligned() -> None:
    storage = KvStorage(CONFIG, first_layer=2, last_layer=5, num_blocks=7, block_size=32)
    arrays = [array for layer in (2, 3, 4) for array in (storage.keys(layer), storage.values(layer))]
    for index, array in enumerate(arrays):
        assert array.ctypes.data % 64 == 0
        assert not array.any()
        array[:] = index + 1
    for index, array in enumerate(arrays):
        assert np.all(array == index + 1)
    assert storage.keys(3).shape == (7, 2, 16, 32)
    assert storage.values(3).shape == (7, 2, 32, 16)


def test_bytes_per_token_is_what_storage_takes() -> None:
    storage = KvStorage(CONFIG, first_layer=2, last_layer=5, num_blocks=7, block_size=32)
    assert storage.num_bytes == 7 * 32 * kv_bytes_per_token(CONFIG, 3)
    assert kv_bytes_per_token(CONFIG, 1) == 2 * 2 * 16 * 4


def test_half_precision_takes_half_the_memory() -> None:
    storage = KvStorage(CONFIG, first_layer=2, last_layer=5, num_blocks=7, block_size=32, dtype=np.float16)
    assert storage.keys(3).dtype == storage.values(3).dtype == np.float16
    assert storage.keys(3).ctypes.data % 64 == storage.values(3).ctypes.data % 64 == 0
    assert storage.num_bytes == 7 * 32 * kv_bytes_per_token(CONFIG, 3, np.float16)
    assert kv_bytes_per_token(CONFIG, 1, np.float16) == 2 * 2 * 16 * 2


def test_codes_take_a_byte_and_a_scale_a_head() -> None:
    storage = KvStorage(CONFIG, first_layer=2, last_layer=5, num_blocks=7, block_size=32, dtype=np.uint8)
    assert storage.num_bytes == 7 * 32 * kv_bytes_per_token(CONFIG, 3, np.uint8)
    assert kv_bytes_per_token(CONFIG, 1, np.uint8) == 2 * 2 * (16 + 4)
    key_scales, value_scales = storage.scales(3)
    assert key_scales is not None
    assert value_scales is not None
    assert key_scales.shape == value_scales.shape == (7, 2, 32)


@pytest.mark.parametrize("precision", ["auto", "fp32", "int8", "int4"])
def test_what_rows_see_all_of_is_in_codes_where_activations_are(precision: Precision) -> None:
    is_coded = precision in ("int8", "int4")
    assert (whole_kv_dtype(CONFIG, precision, exact_activations=False) is np.uint8) == is_coded
    assert whole_kv_dtype(CONFIG, precision, exact_activations=True) is np.float32
    narrow = replace(CONFIG, head_dim=20)
    assert whole_kv_dtype(narrow, precision, exact_activations=False) is kv_dtype(precision, exact_activations=False)


@pytest.mark.parametrize("layer", [1, 5, -1])
def test_layers_of_other_stages_are_refused(layer: int) -> None:
    storage = KvStorage(CONFIG, first_layer=2, last_layer=5, num_blocks=7, block_size=32)
    with pytest.raises(ValueError, match="not stored here"):
        storage.keys(layer)
    with pytest.raises(ValueError, match="not stored here"):
        storage.values(layer)


@pytest.mark.parametrize(
    "changes",
    [{"block_size": 8}, {"block_size": 0}, {"num_blocks": 0}, {"last_layer": 7}, {"first_layer": -1}],
)
def test_impossible_sizes_are_refused(changes: dict[str, int]) -> None:
    sizes = {"first_layer": 2, "last_layer": 5, "num_blocks": 7, "block_size": 32, **changes}
    with pytest.raises(ValueError, match=r"."):
        KvStorage(CONFIG, **sizes)
