"""Every family against Hugging Face transformers on a tiny random fp32 model.

The prompt is longer than every sliding window and than every original context of a scaled rotary embedding.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from shoal.errors import ModelLoadError
from shoal.model.formats.open_weights import open_weights
from tests.model.formats.huggingface.test_safetensors_dir import write_mxfp4
from tests.model.tiny_models import make_tiny_model
from tests.numerics.engines import continuations, make_engine, make_executor, random_tokens, text_logits
from tests.numerics.reference import load_reference, reference_logits

NUM_PROMPT, NUM_OUTPUT = 90, 64
TOLERANCE = 1e-4
"""Logits are up to 7: 1e-4 is some 100 units in the last place, after 4 layers of fp32 sums in another order."""
FEWEST_DISTINCT = 20
"""An answer that repeats one token would say little about the later positions."""


def _rope(kind: str, **parameters: Any) -> dict[str, Any]:
    """Phi-3 has its original context outside of the rotary parameters, with a default that would hide it."""
    outside = {key: parameters[key] for key in ("original_max_position_embeddings",) if kind == "longrope"}
    return {**outside, "rope_parameters": {"rope_type": kind, "rope_theta": 1e4, **parameters}}


LONGROPE = {
    "original_max_position_embeddings": 64,
    "partial_rotary_factor": 0.75,
    "short_factor": [1.0, 1.05, 1.1, 1.15, 1.2, 1.25],
    "long_factor": [1.0, 1.3, 1.6, 1.9, 2.2, 2.5],
    "factor": 8.0,
}
GEMMA3_ROPE = {
    "rope_parameters": {
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
    },
    "tie_word_embeddings": False,
}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama with tied embeddings": ("llama", {"tie_word_embeddings": True}),
    "llama with llama3 rope": (
        "llama",
        _rope("llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=64),
    ),
    "llama with yarn": ("llama", _rope("yarn", factor=8.0, original_max_position_embeddings=64)),
    "llama with one kv head": ("llama", {"num_key_value_heads": 1}),
    "mistral with a window": ("mistral", {}),
    "qwen2": ("qwen2", {}),
    "qwen2 with windows": ("qwen2", {"use_sliding_window": True, "sliding_window": 24, "max_window_layers": 2}),
    "qwen3": ("qwen3", {}),
    "gemma3": ("gemma3_text", {"tie_word_embeddings": False}),
    "gemma3 with scaled rope": ("gemma3_text", GEMMA3_ROPE),
    "gemma3 with soft caps": (
        "gemma3_text",
        {"attn_logit_softcapping": 5.0, "final_logit_softcapping": 3.0, "tie_word_embeddings": False},
    ),
    "mixtral": ("mixtral", {}),
    "qwen2 with experts and a shared one": ("qwen2_moe", {}),
    "qwen3 with experts": ("qwen3_moe", {}),
    "qwen3 with experts whose weights are no sum of 1": ("qwen3_moe", {"norm_topk_prob": False}),
    "qwen3 with experts in every second layer": ("qwen3_moe", {"decoder_sparse_step": 2, "mlp_only_layers": []}),
    "gpt-oss": ("gpt_oss", {}),
    "glm 4.5 with groups of experts": ("glm4_moe", {}),
    "glm 4.5 without groups": ("glm4_moe", {"n_group": 1, "topk_group": 1, "use_qk_norm": False}),
    "ministral": ("ministral", {}),
    "olmo2": ("olmo2", {}),
    "olmo3": ("olmo3", {}),
    "olmoe": ("olmoe", {}),
    "exaone4": ("exaone4", {}),
    "exaone4 without windows": ("exaone4", {"sliding_window": None, "layer_types": ["full_attention"] * 4}),
    "seed-oss": ("seed_oss", {}),
    "smollm3": ("smollm3", {}),
    "granite": ("granite", {}),
    "gemma": ("gemma", {"tie_word_embeddings": False}),
    "gemma2": ("gemma2", {"tie_word_embeddings": False}),
    "phi3 with partial rotary": ("phi3", {}),
    "phi3 with longrope": ("phi3", _rope("longrope", **LONGROPE)),
}


@pytest.mark.parametrize("case", CASES)
def test_family_agrees_with_transformers(case: str, tmp_path: Path) -> None:
    family, settings = CASES[case]
    directory = make_tiny_model(family, tmp_path, **settings)
    prompt = random_tokens(NUM_PROMPT)
    engine = make_engine(make_executor(open_weights(directory)))

    (logits,) = text_logits(engine, [prompt])
    (answer,) = continuations(engine, [prompt], max_tokens=NUM_OUTPUT)

    # One forward pass over prompt and answer gives the reference's greedy choice at every position: the answer is its
    # own greedy answer exactly when all of them are equal.
    expected = reference_logits(load_reference(directory), prompt + answer)
    np.testing.assert_allclose(logits, expected[:NUM_PROMPT], rtol=0, atol=TOLERANCE)
    assert answer == expected[NUM_PROMPT - 1 : -1].argmax(axis=-1).tolist()
    assert len(set(answer)) >= FEWEST_DISTINCT


def test_longrope_takes_the_short_list_within_the_original_context(tmp_path: Path) -> None:
    directory = make_tiny_model("phi3", tmp_path, **_rope("longrope", **LONGROPE))
    prompt = random_tokens(40)
    engine = make_engine(make_executor(open_weights(directory), max_context=64), max_context=64)
    (logits,) = text_logits(engine, [prompt])
    expected = reference_logits(load_reference(directory), prompt)
    np.testing.assert_allclose(logits, expected, rtol=0, atol=TOLERANCE)


WRAPPED = {
    "mistral3": ("mistral", "language_model.model.", "language_model.lm_head", "vision_tower.patch.weight"),
    "qwen2_5_vl": ("qwen2", "model.language_model.", "lm_head", "model.visual.merger.weight"),
    "qwen3_vl_moe": ("qwen3_moe", "model.language_model.", "lm_head", "model.visual.merger.weight"),
    "llama4": ("llama4_text", "language_model.model.", "language_model.lm_head", "vision_model.patch.weight"),
    "qwen3_vl": ("qwen3", "model.language_model.", "lm_head", "model.visual.merger.weight"),
    "qwen3_5": ("qwen3_5_text", "model.language_model.", "lm_head", "mtp.layers.0.mlp.up_proj.weight"),
}


@pytest.mark.parametrize("model_type", WRAPPED)
def test_the_text_part_of_a_multimodal_model(model_type: str, tmp_path: Path) -> None:
    """The same tensors under the names that they have there, beside some of another modality."""
    family, prefix, head, other = WRAPPED[model_type]
    directory = make_tiny_model(family, tmp_path / "text", tie_word_embeddings=False)
    wrapped = tmp_path / "wrapped"
    wrapped.mkdir()
    tensors = {other: np.zeros((4, 4), np.float32)}
    for name, values in load_file(directory / "model.safetensors").items():
        tensors[name.replace("lm_head", head) if "lm_head" in name else prefix + name.removeprefix("model.")] = values
    if model_type == "qwen3_vl_moe":
        tensors = stacked_experts(tensors)
    save_file(tensors, wrapped / "model.safetensors")
    text = json.loads((directory / "config.json").read_text())
    text["model_type"] = "mistral" if family == "mistral" else f"{model_type}_text"
    text["rope_parameters"] |= {} if family == "mistral" else {"rope_type": "default", "mrope_section": [2, 3, 3]}
    config = {"model_type": model_type, "text_config": text, "vision_config": {"hidden_size": 4}}
    (wrapped / "config.json").write_text(json.dumps(config))
    tokens = random_tokens(NUM_PROMPT)
    (logits,) = text_logits(make_engine(make_executor(open_weights(wrapped))), [tokens])
    expected = reference_logits(load_reference(directory), tokens)
    np.testing.assert_allclose(logits, expected, rtol=0, atol=TOLERANCE)
    (wrapped / "config.json").write_text(json.dumps(config | {"text_config": text | {"model_type": "mamba"}}))
    with pytest.raises(ModelLoadError, match="a text part of the architecture 'mamba' is not supported"):
        open_weights(wrapped)


def stacked_experts(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """All experts of a layer in one tensor, inputs before outputs, gate before up. Source: transformers,
    models/qwen3_vl_moe."""
    others = {name: values for name, values in tensors.items() if ".experts." not in name}
    for layer in {name.partition(".experts.")[0] for name in tensors if ".experts." in name}:
        numbers = range(sum(name.startswith(f"{layer}.experts.") for name in tensors) // 3)
        gate, up, down = (
            np.stack([tensors[f"{layer}.experts.{number}.{part}_proj.weight"].T for number in numbers])
            for part in ("gate", "up", "down")
        )
        others[f"{layer}.experts.gate_up_proj"] = np.ascontiguousarray(np.concatenate([gate, up], axis=-1))
        others[f"{layer}.experts.down_proj"] = np.ascontiguousarray(down)
    return others


def test_a_head_that_differs_from_the_embedding_it_should_be(tmp_path: Path) -> None:
    """transformers ties only what is equal, and so do the native layers."""
    directory = make_tiny_model("llama", tmp_path, tie_word_embeddings=False)
    expected = reference_logits(load_reference(directory), random_tokens(NUM_PROMPT))
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": True}))
    (logits,) = text_logits(make_engine(make_executor(open_weights(directory))), [random_tokens(NUM_PROMPT)])
    np.testing.assert_allclose(logits, expected, rtol=0, atol=TOLERANCE)


def test_experts_whose_outputs_stand_before_inputs(tmp_path: Path) -> None:
    """As transformers writes a Qwen 3 VL that it has made itself; published files have them turned."""
    directory = make_tiny_model("qwen3_moe", tmp_path, mlp_only_layers=[])
    expected = reference_logits(load_reference(directory), random_tokens(NUM_PROMPT))
    tensors = stacked_experts(load_file(directory / "model.safetensors"))
    upright = {name: values.swapaxes(1, 2).copy() for name, values in tensors.items() if ".experts." in name}
    save_file({**tensors, **upright}, directory / "model.safetensors")
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, "model_type": "qwen3_vl_moe"}))
    (logits,) = text_logits(make_engine(make_executor(open_weights(directory))), [random_tokens(NUM_PROMPT)])
    np.testing.assert_allclose(logits, expected, rtol=0, atol=TOLERANCE)


def test_mxfp4_blocks_of_gpt_oss(tmp_path: Path) -> None:
    """The same weights, as blocks for us and widened for transformers."""
    meant = write_mxfp4(tmp_path / "blocks")
    directory = make_tiny_model("gpt_oss", tmp_path / "floats")
    tensors = load_file(directory / "model.safetensors")
    save_file(
        {**tensors, **{name: values.swapaxes(1, 2).copy() for name, values in meant.items()}},
        directory / "model.safetensors",
        metadata={"format": "pt"},
    )
    text = random_tokens(NUM_PROMPT)
    expected = reference_logits(load_reference(directory), text)
    for precision, tolerance in (("fp32", 1e-4), ("auto", 1e-3)):  # blocks meet activations of 15 bits
        executor = make_executor(open_weights(tmp_path / "blocks"), precision=precision, exact_activations=True)
        (logits,) = text_logits(make_engine(executor), [text])
        np.testing.assert_allclose(logits, expected, rtol=0, atol=tolerance * float(np.abs(expected).max()))
