"""Models without weights: their sizes are those of the same models with weights, and nothing else can be had."""

import json
from pathlib import Path
from typing import get_args

import pytest

from shoal.errors import ModelLoadError
from shoal.model.formats.open_weights import open_sizes, open_weights
from shoal.model.formats.settings_only import SettingsOnly
from shoal.model.formats.tensor_check import layer_shapes
from shoal.model.shard.source import ShardSource
from shoal.model.weights import Precision, WeightSource
from shoal.protocol.stage_config import ShardPart
from tests.model.formats.huggingface.quantized.coded_files import CASES, write_quantized
from tests.model.tiny_models import EXPERT_FAMILIES, FAMILIES, MORE_FAMILIES, make_tiny_model

LLAMA_3_70B = {
    "model_type": "llama",
    "hidden_size": 8192,
    "intermediate_size": 28672,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
    "tie_word_embeddings": False,
}
LLAMA_3_70B_PARAMETERS = 70_553_706_496
"""Source: the model's page at Hugging Face, which counts the tensors of its files."""
NUM_NORM_WEIGHTS = (2 * 80 + 1) * 8192
HALF = ShardPart(kv_heads=(0, 2), columns=(0, 64), vocabulary=(0, 160))


def write_settings(path: Path, **changes: object) -> Path:
    path.write_text(json.dumps({**LLAMA_3_70B, **changes}))
    return path


def matrices(source: WeightSource) -> list[str]:
    layers = [
        f"layers.{layer}.{name}"
        for layer in range(source.config.num_layers)
        for name, shape in layer_shapes(source.config, layer).items()
        if len(shape) == 2
    ]
    return ["embedding", *layers, "head"]


@pytest.mark.parametrize("family", FAMILIES + MORE_FAMILIES + EXPERT_FAMILIES)
def test_sizes_are_those_of_the_weights(family: str, tmp_path: Path) -> None:
    changes = {} if family == "phi3" else {"num_key_value_heads": 4}  # two whole atoms, to be cut in half
    directory = make_tiny_model(family, tmp_path, **changes)
    whole, without = open_weights(directory), SettingsOnly(directory / "config.json")
    assert without.config == whole.config
    pairs: list[tuple[WeightSource, WeightSource]] = [(whole, without)]
    if changes:
        pairs.append((ShardSource(whole, HALF), ShardSource(without, HALF)))
    for one, other in pairs:
        for precision in get_args(Precision):
            sizes = [[source.matrix_bytes(name, precision) for name in matrices(whole)] for source in (one, other)]
            assert sizes[0] == sizes[1]


@pytest.fixture(scope="module")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model("llama", tmp_path_factory.mktemp("models"))


@pytest.mark.parametrize("case", CASES)
def test_quantized_matrices_have_the_sizes_of_their_files(case: str, tiny_llama: Path, tmp_path: Path) -> None:
    directory = tmp_path / "quantized"
    write_quantized(tiny_llama, directory, CASES[case])
    whole, without = open_weights(directory), SettingsOnly(directory / "config.json")
    names = [name for name in matrices(whole) if name != "layers.1.o"]  # of which no setting says that it is left out
    for precision in get_args(Precision):
        for name in names:
            assert without.matrix_bytes(name, precision) == whole.matrix_bytes(name, precision), (name, precision)


def test_modules_that_settings_leave_out_are_held_as_floats(tmp_path: Path) -> None:
    quantization = {"quant_method": "awq", "bits": 4, "group_size": 128, "modules_to_not_convert": ["self_attn.o_proj"]}
    source = SettingsOnly(write_settings(tmp_path / "config.json", quantization_config=quantization))
    assert source.matrix_bytes("layers.0.o", "auto") == 4 * 8192 * 8192
    assert source.matrix_bytes("layers.0.gate", "auto") < 8192 * 28672


def test_a_published_model_has_its_published_size(tmp_path: Path) -> None:
    source = SettingsOnly(write_settings(tmp_path / "llama-3-70b.json"))
    num_weights = sum(source.matrix_bytes(name, "fp32") for name in matrices(source)) // 4
    assert num_weights + NUM_NORM_WEIGHTS == LLAMA_3_70B_PARAMETERS


def test_values_cannot_be_read(tmp_path: Path) -> None:
    source = SettingsOnly(write_settings(tmp_path / "config.json"))
    for read in (lambda: source.matrix("head", "auto"), lambda: source.vector("final_norm")):
        with pytest.raises(ModelLoadError, match=r"config\.json: these are only the settings"):
            read()


def test_a_folder_without_weights_has_sizes(tmp_path: Path) -> None:
    write_settings(tmp_path / "config.json")
    assert open_sizes(tmp_path).config == open_sizes(tmp_path / "config.json").config
    with pytest.raises(ModelLoadError, match=r"no \.safetensors files; measuring and running need the weights"):
        open_weights(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", '{"model_type": "llama", "hidden_size": -1}', '{"model_type": ["llama"]}'])
def test_damaged_settings_are_one_error(text: str, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(ModelLoadError, match=r"config\.json"):
        open_sizes(path)
