"""Whole models from quantized Hugging Face files compute what the same values compute in fp32, whole and split."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from shoal.model.attention.paged_attention import native_available
from shoal.model.formats.open_weights import open_weights
from tests.model.formats.huggingface.quantized.coded_files import CASES, write_dense, write_quantized
from tests.model.tiny_models import make_tiny_model
from tests.numerics.engines import make_engine, make_executor, random_tokens, text_logits

TEXT = random_tokens(40)
FORMS = [False, True] if native_available() else [False]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("transformers")
    return make_tiny_model("llama", tmp_path_factory.mktemp("models"))


def logits_of(path: Path, **settings) -> np.ndarray:
    (logits,) = text_logits(make_engine(make_executor(open_weights(path), **settings)), [TEXT])
    return logits


@pytest.mark.parametrize("native", FORMS, ids=lambda native: "native" if native else "onnx")
@pytest.mark.parametrize(
    "case", ["fp8-blocks", "ct-int4-asymmetric", "ct-int8-channel", "gptq-4", "gptq-4-act-order", "awq", "nf4-nested"]
)
def test_a_quantized_model(case: str, native: bool, tiny: Path, tmp_path: Path) -> None:
    values = write_quantized(tiny, tmp_path / "coded", CASES[case])
    expected = logits_of(write_dense(tiny, tmp_path / "dense", values), precision="fp32", native=native)
    scale = float(np.abs(expected).max())
    whole = logits_of(tmp_path / "coded", precision="auto", native=native, exact_activations=True)
    tolerance = 2e-3 if CASES[case].is_integer else 1e-5  # activations of 15 bits
    np.testing.assert_allclose(whole, expected, rtol=0, atol=tolerance * scale)
    pipeline = logits_of(tmp_path / "coded", precision="auto", native=native, exact_activations=True, cuts=(1, 3))
    np.testing.assert_array_equal(pipeline, whole)
    shards = logits_of(tmp_path / "coded", precision="auto", native=native, exact_activations=True, shares=(1, 1))
    np.testing.assert_allclose(shards, whole, rtol=0, atol=tolerance * scale)


def test_experts_in_fp8(tmp_path: Path) -> None:
    """Each expert's matrices have tensors of their own."""
    pytest.importorskip("transformers")
    tiny = make_tiny_model("qwen3_moe", tmp_path / "tiny")
    values = write_quantized(tiny, tmp_path / "coded", CASES["fp8-blocks"])
    expected = logits_of(write_dense(tiny, tmp_path / "dense", values), precision="fp32")
    for shares in ((1,), (2, 1)):
        logits = logits_of(tmp_path / "coded", precision="auto", exact_activations=True, shares=shares)
        np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-5 * float(np.abs(expected).max()))


@pytest.mark.parametrize("family", ["phi3", "cohere", "gpt_neox"])
def test_rows_in_other_orders(family: str, tmp_path: Path) -> None:
    """q, k and v under each other, rows in interleaved rotary order, and q, k and v of each head in turn: rows begin
    within words and blocks, or do not follow each other."""
    pytest.importorskip("transformers")
    tiny = make_tiny_model(family, tmp_path / "tiny")
    for case in ("awq", "gptq-4-asymmetric", "ct-int4-asymmetric", "fp8-blocks"):
        values = write_quantized(tiny, tmp_path / case, CASES[case])
        expected = logits_of(write_dense(tiny, tmp_path / f"{case}-dense", values), precision="fp32")
        tolerance = (2e-3 if CASES[case].is_integer else 1e-4) * float(np.abs(expected).max())
        for shares in ((1,), (1, 1)):
            logits = logits_of(tmp_path / case, precision="auto", exact_activations=True, shares=shares)
            np.testing.assert_allclose(logits, expected, rtol=0, atol=tolerance)


def test_latent_attention_in_fp8(tmp_path: Path) -> None:
    """As DeepSeek V3 comes. The ways into the latent space lie across the file's blocks and are held as floats."""
    pytest.importorskip("transformers")
    sizes = {"qk_nope_head_dim": 32, "kv_lora_rank": 64, "q_lora_rank": 64, "v_head_dim": 32}
    tiny = make_tiny_model("deepseek_v3", tmp_path / "tiny", **sizes)
    values = write_quantized(tiny, tmp_path / "coded", CASES["fp8-blocks"])
    expected = logits_of(write_dense(tiny, tmp_path / "dense", values), precision="fp32")
    logits = logits_of(tmp_path / "coded", precision="auto", exact_activations=True)
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-5 * float(np.abs(expected).max()))
