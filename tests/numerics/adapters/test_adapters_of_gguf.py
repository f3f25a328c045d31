"""Adapters of models in GGUF: in GGUF themselves, and as PEFT has written them."""

from pathlib import Path

import gguf
import numpy as np
import pytest

from shoal.errors import ModelLoadError
from shoal.model.adapter.files import find_adapter
from shoal.model.conversion import convert_model
from shoal.model.formats.gguf.writing.encode import GgufPrecision
from tests.model.converted_gguf import convert
from tests.model.tiny_adapters import PROJECTIONS, gguf_adapter, merged_reference, tiny_adapter
from tests.model.tiny_models import make_tiny_model
from tests.numerics.adapters.adapted import BASE, adapted_engine, adapted_logits
from tests.numerics.engines import random_tokens
from tests.numerics.reference import reference_logits

TOLERANCE = 1e-4
"""as in test_adapters"""
FUSED = ("qkv_proj", "o_proj", "gate_up_proj", "down_proj")
ARCHITECTURES = {
    "llama": (gguf.MODEL_ARCH.LLAMA, PROJECTIONS),
    "qwen3": (gguf.MODEL_ARCH.QWEN3, PROJECTIONS),
    "phi3": (gguf.MODEL_ARCH.PHI3, FUSED),
}


@pytest.mark.parametrize("family", ARCHITECTURES)
def test_an_adapter_in_gguf(tmp_path: Path, family: str) -> None:
    architecture, targets = ARCHITECTURES[family]
    model = make_tiny_model(family, tmp_path / "model")
    adapter = tiny_adapter(model, tmp_path / "adapter", targets=targets, dtype=np.float16)
    file, own = (
        convert(model, tmp_path / "model.gguf"),
        gguf_adapter(model, adapter, tmp_path / "lora.gguf", architecture),
    )
    text = random_tokens(60)
    expected = reference_logits(merged_reference(model, adapter), text)
    (logits,) = adapted_logits(adapted_engine(file, [own]), [text], [0])
    assert np.abs(logits - expected).max() < TOLERANCE
    with pytest.raises(ModelLoadError, match="give PEFT's directory"):
        adapted_engine(model, [own])
    if family == "phi3":
        with pytest.raises(ModelLoadError, match=r"convert_lora_to_gguf\.py"):
            adapted_engine(file, [adapter])
    else:
        (logits,) = adapted_logits(adapted_engine(file, [adapter]), [text], [0])
        assert np.abs(logits - expected).max() < TOLERANCE


def test_an_adapter_for_another_architecture(tmp_path: Path) -> None:
    model = make_tiny_model("qwen3", tmp_path / "model")
    adapter = tiny_adapter(model, tmp_path / "adapter")
    own = gguf_adapter(model, adapter, tmp_path / "lora.gguf", gguf.MODEL_ARCH.LLAMA)
    with pytest.raises(
        ModelLoadError, match="it is an adapter for a model of 'llama', but this model is one of 'qwen3'"
    ):
        adapted_engine(convert(model, tmp_path / "model.gguf"), [own])


def test_a_model_is_no_adapter(tmp_path: Path) -> None:
    file = convert(make_tiny_model("llama", tmp_path / "model"), tmp_path / "model.gguf")
    with pytest.raises(ModelLoadError, match="not those of a LoRA adapter"):
        adapted_engine(file, [file])


@pytest.mark.parametrize(("precision", "tolerance"), [("auto", TOLERANCE), ("fp16", 0.02)])
def test_a_merged_model_as_a_file(tmp_path: Path, precision: GgufPrecision, tolerance: float) -> None:
    model = make_tiny_model("llama", tmp_path / "model")
    adapter = tiny_adapter(model, tmp_path / "adapter")
    merged = [find_adapter("merged", adapter, is_merged=True)]
    convert_model(model, tmp_path / "merged.gguf", precision, name="merged", adapters=merged)
    text = random_tokens(60)
    (logits,) = adapted_logits(adapted_engine(tmp_path / "merged.gguf", []), [text], [BASE])
    assert np.abs(logits - reference_logits(merged_reference(model, adapter), text)).max() < tolerance
