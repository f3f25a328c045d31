"""Adapters against Hugging Face transformers, whose weights have B A added to them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.model.tiny_adapters import PROJECTIONS, merged_reference, module_shapes, tiny_adapter, write_adapter
from tests.model.tiny_models import make_tiny_model
from tests.numerics.adapters.adapted import BASE, adapted_engine, adapted_logits, answers
from tests.numerics.engines import random_tokens
from tests.numerics.reference import reference_logits

TOLERANCE = 1e-4
"""of logits up to 7 with some hundred products in fp32 each, whose sums have another order"""
MakeModel = Callable[[str], Path]
CASES: dict[str, tuple[str, tuple[str, ...], dict[str, Any]]] = {
    "llama": ("llama", PROJECTIONS, {}),
    "llama, attention alone": ("llama", ("q_proj", "v_proj"), {"alpha": 16.0}),
    "llama, the MLP alone": ("llama", ("down_proj",), {"rank": 1}),
    "llama, by the root of the rank": ("llama", PROJECTIONS, {"use_rslora": True}),
    "llama, bfloat16's width": ("llama", PROJECTIONS, {"dtype": np.float16}),
    "llama, many ranks": ("llama", PROJECTIONS, {"rank": 40}),
    "qwen3": ("qwen3", PROJECTIONS, {}),
    "gemma3": ("gemma3_text", PROJECTIONS, {}),
    "granite": ("granite", PROJECTIONS, {}),
    "phi3, fused": ("phi3", ("qkv_proj", "o_proj", "gate_up_proj", "down_proj"), {}),
    "gpt2, transposed and without a gate": ("gpt2", ("c_attn", "c_proj", "c_fc"), {"fan_in_fan_out": True}),
    "gpt_neox, in turn and parallel": (
        "gpt_neox",
        ("query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"),
        {},
    ),
    "cohere, interleaved": ("cohere", PROJECTIONS, {}),
    "experts, attention": ("qwen3_moe", ("q_proj", "k_proj", "v_proj", "o_proj"), {}),
    "gates and recurrence, attention": ("qwen3_next", ("q_proj", "k_proj", "v_proj", "o_proj"), {}),
    "latent attention, its output": ("deepseek_v3", ("o_proj",), {}),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> MakeModel:
    """A tiny random model of a family, written once."""
    made: dict[str, Path] = {}

    def make(family: str) -> Path:
        if family not in made:
            made[family] = make_tiny_model(family, tmp_path_factory.mktemp("models") / family)
        return made[family]

    return make


@pytest.mark.parametrize("case", CASES)
def test_logits_are_those_of_the_merged_model(model: MakeModel, tmp_path: Path, case: str) -> None:
    family, targets, options = CASES[case]
    adapter = tiny_adapter(model(family), tmp_path / "adapter", targets=targets, **options)
    text = random_tokens(90)
    engine = adapted_engine(model(family), [adapter])
    adapted, plain = adapted_logits(engine, [text, text], [0, BASE])
    expected = reference_logits(merged_reference(model(family), adapter), text)
    assert np.abs(adapted - expected).max() < TOLERANCE * max(1.0, np.abs(expected).max() / 7)
    assert np.abs(plain - expected).max() > 0.1, "the adapter changes next to nothing"


def test_patterns_say_ranks_and_scales_of_some_modules(model: MakeModel, tmp_path: Path) -> None:
    shapes = module_shapes(model("llama"), PROJECTIONS)
    ranks = {name: 9 for name in shapes if name.endswith("layers.1.self_attn.q_proj")}
    ranks |= {name: 2 for name in shapes if name.endswith("down_proj")}
    adapter = write_adapter(
        tmp_path / "adapter",
        shapes,
        ranks=ranks,
        rank_pattern={"model.layers.1.self_attn.q_proj": 9, "down_proj": 2},
        alpha_pattern={r"layers\.\d+\.mlp\.up_proj": 3, "k_proj": 20},
    )
    text = random_tokens(60)
    (logits,) = adapted_logits(adapted_engine(model("llama"), [adapter]), [text], [0])
    expected = reference_logits(merged_reference(model("llama"), adapter), text)
    assert np.abs(logits - expected).max() < TOLERANCE


def test_answers_are_those_of_the_merged_model(model: MakeModel, tmp_path: Path) -> None:
    import torch

    adapter = tiny_adapter(model("llama"), tmp_path / "adapter")
    reference, prompt = merged_reference(model("llama"), adapter), random_tokens(30)
    with torch.no_grad():
        expected = reference.generate(
            torch.tensor([prompt]), max_new_tokens=64, min_new_tokens=64, do_sample=False, eos_token_id=None
        )
    (answer,) = answers(adapted_engine(model("llama"), [adapter]), [prompt], [0], max_tokens=64)
    assert answer.token_ids == expected[0, len(prompt) :].tolist()


@pytest.mark.parametrize("precision", ["auto", "fp32", "int8", "int4"])
def test_a_merged_adapter_is_a_part_of_the_weights(model: MakeModel, tmp_path: Path, precision: str) -> None:
    adapter, text = tiny_adapter(model("llama"), tmp_path / "adapter"), random_tokens(60)
    merged = adapted_engine(model("llama"), [adapter], merged=True, precision=precision, exact_activations=True)
    (logits,) = adapted_logits(merged, [text], [BASE])
    saved = merged_reference(model("llama"), adapter)
    saved.save_pretrained(tmp_path / "saved")
    (expected,) = adapted_logits(
        adapted_engine(tmp_path / "saved", [], precision=precision, exact_activations=True), [text], [BASE]
    )
    assert np.abs(logits - expected).max() < (TOLERANCE if precision in ("auto", "fp32") else 0.05)
