"""What a stage makes of the numbers that a file claims, and of a file that changes under it."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from shoal.errors import ModelLoadError
from shoal.model.attention.paged_attention_numpy import NumpyLayer
from shoal.model.decoder.forced_form import ForcedForm
from shoal.model.decoder.stage import Stage
from shoal.model.decoder.stage_attention import StageAttention
from shoal.model.formats.open_weights import open_weights
from shoal.protocol.language_messages import SampleRow, Sampling, Step, StepId
from shoal.protocol.stage_config import ShardPart, StageConfig
from shoal.protocol.worker_messages import Generation
from tests.model.tiny_models import make_tiny_model, tiny_llama_tensors, write_gguf

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
    )
    source = open_weights(write_model(tmp_path, context_length=ABSURD_CONTEXT))
    (layer,) = StageAttention(source, config, ForcedForm(native=False)).layers
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


PROMPT = Step(
    step_id=StepId(0),
    generation=Generation(0),
    token_ids=np.arange(5, 13, dtype="<i4").tobytes(),
    positions=np.arange(8, dtype="<i4").tobytes(),
    query_starts=np.array([0, 8], "<i4").tobytes(),
    context_lens=np.array([8], "<i4").tobytes(),
    block_tables=np.array([0], "<i4").tobytes(),
    samples=(SampleRow(row=7, token_index=0, sampling=Sampling(temperature=0.0), target=1, want_logits=True),),
)


def whole_model(part: ShardPart | None = None) -> StageConfig:
    return StageConfig(
        first_layer=0,
        last_layer=4,
        precision="auto",
        threads=1,
        num_blocks=1,
        block_size=16,
        max_step_tokens=8,
        max_context=16,
        part=part,
    )


def gguf_of_floats(folder: Path) -> tuple[Path, Path]:
    path = write_gguf(folder / "m.gguf", "llama", tiny_llama_tensors())
    return path, path


def gguf_of_blocks(folder: Path) -> tuple[Path, Path]:
    path = write_gguf(folder / "m.gguf", "llama", tiny_llama_tensors(), quant="Q8_0")
    return path, path


def safetensors(folder: Path) -> tuple[Path, Path]:
    return make_tiny_model("llama", folder), folder / "model.safetensors"


WRITERS = pytest.mark.parametrize("write", [gguf_of_floats, gguf_of_blocks, safetensors])


@WRITERS
def test_a_file_that_is_written_to_while_it_is_served(
    tmp_path: Path, write: Callable[[Path], tuple[Path, Path]]
) -> None:
    """A worker computes with the weights that it has loaded: the others of its replica have no other ones."""
    model, weights = write(tmp_path)
    stage = Stage(open_weights(model), whole_model())
    before = stage.process(PROMPT)
    with weights.open("r+b") as file:
        file.write(os.urandom(weights.stat().st_size))
    assert stage.process(PROMPT) == before
    os.truncate(weights, 0)
    assert stage.process(PROMPT) == before


@WRITERS
@pytest.mark.parametrize("part", [None, ShardPart(kv_heads=(0, 1), columns=(0, 64), vocabulary=(0, 160))])
def test_nothing_of_the_file_is_mapped_once_it_is_loaded(
    tmp_path: Path, write: Callable[[Path], tuple[Path, Path]], part: ShardPart | None
) -> None:
    model, weights = write(tmp_path)
    stage = Stage(open_weights(model), whole_model(part))
    assert stage.weight_bytes > 0
    assert str(weights) not in Path("/proc/self/maps").read_text()
