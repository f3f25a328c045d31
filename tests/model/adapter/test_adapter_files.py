"""What is refused of an adapter, each time with one line that names it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from shoal.errors import ModelChanged, ModelLoadError
from shoal.model.adapter.adapter import MAX_RANK
from shoal.model.adapter.files import adapters_unchanged, find_adapter, with_adapters
from shoal.model.formats.open_weights import open_weights
from tests.model.tiny_adapters import PREFIX, module_shapes, tiny_adapter, write_adapter
from tests.model.tiny_models import make_tiny_model

Q = "model.layers.0.self_attn.q_proj"
MakeModel = Callable[[str], Path]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> MakeModel:
    made: dict[str, Path] = {}

    def make(family: str) -> Path:
        if family not in made:
            made[family] = make_tiny_model(family, tmp_path_factory.mktemp("models") / family)
        return made[family]

    return make


def refused(model: Path, adapter: Path, match: str) -> None:
    with pytest.raises(ModelLoadError, match=match) as error:
        with_adapters(open_weights(model), [find_adapter("a", adapter)])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"use_dora": True}, "use_dora is True, which is not supported"),
        ({"modules_to_save": ["lm_head"]}, r"modules_to_save is \['lm_head'\]"),
        ({"bias": "lora_only"}, "bias is 'lora_only'"),
        ({"lora_bias": True}, "lora_bias is True"),
        ({"layer_replication": [[0, 2]]}, "layer_replication"),
        ({"trainable_token_indices": [1]}, "trainable_token_indices"),
        ({"target_parameters": ["mlp.experts.down_proj"]}, "target_parameters"),
        ({"alora_invocation_tokens": [1]}, "alora_invocation_tokens"),
        ({"of_next_year": {"a": 1}}, "of_next_year"),
        ({"peft_type": "IA3"}, "peft_type is 'IA3'; only LORA is supported"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights is 'pissa'"),
        ({"r": 5}, "it gives model.layers.0.self_attn.q_proj the rank 5, but its tensors have rank 4"),
        ({"r": "four"}, "r is 'four', which is not a positive number"),
        ({"lora_alpha": -1}, "lora_alpha is -1"),
        ({"rank_pattern": {"(a+)+": 4}}, "could take long to match"),
        ({"alpha_pattern": {"q_proj(": 4}}, "is not a regular expression"),
        ({"rank_pattern": ["q_proj"]}, "rank_pattern is not an object"),
    ],
)
def test_settings_that_are_not_computed(model: MakeModel, tmp_path: Path, fields: dict[str, Any], match: str) -> None:
    refused(model("llama"), write_adapter(tmp_path / "adapter", {Q: (64, 64)}, **fields), match)


def test_what_training_leaves_in_the_settings_is_taken(model: MakeModel, tmp_path: Path) -> None:
    fields = {"use_dora": False, "modules_to_save": None, "base_model_name_or_path": "x/y", "layers_to_transform": [0]}
    adapter = write_adapter(tmp_path / "adapter", {Q: (64, 64)}, target_modules=".*q_proj", **fields)
    _, (opened,) = with_adapters(open_weights(model("llama")), [find_adapter("a", adapter)])
    assert set(opened.terms) == {"layers.0.q"}


@pytest.mark.parametrize(
    ("family", "module", "shape"),
    [
        ("llama", "lm_head", (320, 64)),
        ("llama", "model.embed_tokens", (320, 64)),
        ("llama", "model.layers.4.self_attn.q_proj", (64, 64)),
        ("llama", "vision_tower.encoder.layers.0.self_attn.q_proj", (64, 64)),
        ("qwen3_moe", "model.layers.0.mlp.experts.3.gate_proj", (96, 64)),
        ("qwen3_moe", "model.layers.0.mlp.gate", (8, 64)),
        ("deepseek_v3", "model.layers.0.self_attn.kv_b_proj", (176, 32)),
        ("deepseek_v3", "model.layers.0.self_attn.q_a_proj", (40, 64)),
        ("lfm2", "model.layers.0.conv.in_proj", (192, 64)),
    ],
)
def test_modules_that_no_adapter_can_be_added_to(
    model: MakeModel, tmp_path: Path, family: str, module: str, shape: tuple[int, int]
) -> None:
    refused(model(family), write_adapter(tmp_path / "adapter", {module: shape}), f"changes .*{module.split('.')[-1]}")


def test_an_adapter_of_a_larger_model(model: MakeModel, tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter", {Q: (128, 96)})
    refused(
        model("llama"),
        adapter,
        "is for another model: model.layers.0.self_attn.q_proj has 128 outputs and 96 inputs there, but 64 and 64 here",
    )


def test_a_rank_beyond_all_bounds(model: MakeModel, tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter", {Q: (64, 64)}, rank=MAX_RANK + 1)
    refused(model("llama"), adapter, f"has rank {MAX_RANK + 1}; adapters may have rank 1 to {MAX_RANK}")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda tensors: tensors.pop(f"{PREFIX}{Q}.lora_A.weight"), "has only one of A and B"),
        (lambda tensors: tensors.update({f"{PREFIX}{Q}.lora_magnitude_vector": np.ones(64, "f4")}), "magnitude_vector"),
        (
            lambda tensors: tensors.update({f"{PREFIX}{Q}.lora_B.weight": np.ones((64, 3), "f4")}),
            "A of rank 4 and B of",
        ),
        (lambda tensors: tensors.update({f"{PREFIX}{Q}.lora_B.weight": np.ones((64, 4), "i4")}), "matrices of floats"),
        (lambda tensors: tensors.update({f"{PREFIX}{Q}.lora_A.weight": np.ones(64, "f4")}), "matrices of floats"),
        (lambda tensors: tensors.clear(), "the adapter changes nothing"),
    ],
)
def test_tensors_that_are_no_adapter(
    model: MakeModel, tmp_path: Path, change: Callable[[dict[str, np.ndarray]], Any], match: str
) -> None:
    adapter = write_adapter(tmp_path / "adapter", {Q: (64, 64)})
    tensors = load_file(adapter / "adapter_model.safetensors")
    change(tensors)
    save_file(tensors, adapter / "adapter_model.safetensors")
    refused(model("llama"), adapter, match)


def test_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match=r"adapter a: there is no .*nowhere"):
        find_adapter("a", tmp_path / "nowhere")
    with pytest.raises(ModelLoadError, match=r"has no adapter_config\.json"):
        find_adapter("a", tmp_path)
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelLoadError, match=r"has no adapter_model\.safetensors"):
        find_adapter("a", tmp_path)


def test_broken_files(model: MakeModel, tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter", {Q: (64, 64)})
    whole = (adapter / "adapter_model.safetensors").read_bytes()
    (adapter / "adapter_model.safetensors").write_bytes(whole[:-100])
    refused(model("llama"), adapter, "truncated")
    (adapter / "adapter_config.json").write_text("[1]")
    refused(model("llama"), adapter, "is not a JSON object")


def test_files_that_change_are_noticed(model: MakeModel, tmp_path: Path) -> None:
    adapter = tiny_adapter(model("llama"), tmp_path / "adapter")
    found = find_adapter("a", adapter)
    write_adapter(adapter, module_shapes(model("llama"), ("q_proj",)), seed=7)
    with pytest.raises(ModelChanged, match=r"adapter_model\.safetensors"), adapters_unchanged([found]):
        pass


def test_expressions_for_ranks_end_within_the_tests_time(model: MakeModel, tmp_path: Path) -> None:
    """The worst that are not refused: two quantifiers and no repeated group."""
    shapes = module_shapes(model("llama"), ("q_proj", "k_proj", "v_proj"))
    patterns = {f".*.{{1,90}}x{number}": 4 for number in range(100)}
    adapter = write_adapter(tmp_path / "adapter", shapes, alpha_pattern=patterns)
    _, (opened,) = with_adapters(open_weights(model("llama")), [find_adapter("a", adapter)])
    assert {term.scale for term in opened.terms.values()} == {2.0}
