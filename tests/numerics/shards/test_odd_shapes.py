"""Sizes that fill no block, tile or register: hidden states, heads, MLPs and vocabularies, tied and padded or not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shoal.model.attention.paged_attention import native_available
from shoal.model.formats.open_weights import open_weights
from shoal.model.weights import Precision
from tests.model.tiny_models import make_tiny_model
from tests.numerics.engines import make_engine, make_executor, random_tokens, text_logits
from tests.numerics.reference import load_reference, reference_logits

TEXT = random_tokens(30)
SIZES: dict[str, dict[str, Any]] = {
    "tied": {
        "hidden_size": 100,
        "intermediate_size": 84,
        "head_dim": 22,
        "vocab_size": 331,
        "tie_word_embeddings": True,
    },
    "untied": {"hidden_size": 100, "intermediate_size": 84, "head_dim": 22, "vocab_size": 331},
    "one kv head": {
        "hidden_size": 96,
        "intermediate_size": 100,
        "num_attention_heads": 3,
        "num_key_value_heads": 1,
        "head_dim": 32,
    },
    "small": {"hidden_size": 36, "intermediate_size": 44, "head_dim": 18, "vocab_size": 333},
}
"""331 and 333 rows of the embedding are more than the tokenizer has tokens, and no multiple of anything."""
TOLERANCES: dict[Precision, float] = {"fp32": 1e-4, "auto": 2e-2, "int8": 0.1, "int4": 1.0}
"""of the largest logit; keys and values are in half precision but with fp32"""


@pytest.mark.parametrize("native", [False, True] if native_available() else [False])
@pytest.mark.parametrize("name", SIZES)
def test_odd_sizes(name: str, native: bool, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    model = make_tiny_model("llama", tmp_path, **SIZES[name])
    expected = reference_logits(load_reference(model), TEXT)
    for precision, tolerance in TOLERANCES.items():
        for split in ({}, {"shares": (2, 1)}, {"cuts": (1, 3)}):
            executor = make_executor(open_weights(model), precision=precision, native=native, **split)
            (logits,) = text_logits(make_engine(executor), [TEXT])
            assert logits.shape == expected.shape
            assert np.abs(logits - expected).max() <= tolerance * np.abs(expected).max(), (precision, split)
