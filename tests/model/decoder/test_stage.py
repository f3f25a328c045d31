"""What a stage makes of the numbers that a file claims."""

from pathlib import Path

import pytest

from shoal.errors import ModelLoadError
from shoal.model.attention.paged_attention_numpy import NumpyLayer
from shoal.model.decoder.stage import Stage, StageConfig
from shoal.model.formats.open_weights import open_weights
from tests.model.tiny_models import tiny_llama_tensors, write_gguf

ABSURD_CONTEXT = 2**31 - 1


def write_model(folder: Path, **metadata: int) -> Path:
    keys = {f"llama.{key}": value for key, value in metadata.items()}
    return write_gguf(folder / "m.gguf", "llama", tiny_llama_tensors(num_layers=1), metadata=keys)


def test_rotary_tables_are_no_longer_than_the_kv_cache(tmp_path: Path) -> None:
    """A context of two billion tokens would be 128 GiB of cosines and sines."""
    config = StageConfig(
        first_layer=0,
        last_layer=1,
        precision="fp32",
        threads=1,
        num_blocks=3,
        block_size=16,
        max_step_tokens=8,
        max_context=ABSURD_CONTEXT,
        native=False,
    )
    stage = Stage(open_weights(write_model(tmp_path, context_length=ABSURD_CONTEXT)), config)
    (layer,) = stage._layers
    assert isinstance(layer, NumpyLayer)
    assert layer.cos.shape == layer.sin.shape == (48, 8)


@pytest.mark.parametrize("metadata", [{"context_length": ABSURD_CONTEXT + 1}, {"block_count": 10**9}])
def test_numbers_that_no_model_has(tmp_path: Path, metadata: dict[str, int]) -> None:
    with pytest.raises(ModelLoadError, match=r"m\.gguf: .*(between 1 and|possible)"):
        open_weights(write_model(tmp_path, **metadata))


@pytest.mark.parametrize("rotary_dim", [0, 15, 18, 10**9])
def test_more_rotary_dimensions_than_a_head_has(tmp_path: Path, rotary_dim: int) -> None:
    path = write_gguf(
        tmp_path / "m.gguf", "llama", tiny_llama_tensors(), metadata={"llama.rope.dimension_count": rotary_dim}
    )
    with pytest.raises(ModelLoadError, match=r"m\.gguf: .*(rotary dimensions of 16|rope\.dimension_count is 0)"):
        open_weights(path)
