"""Texts before and after a gap, as the tokens that models of code were trained on."""

from __future__ import annotations

import pytest

from shoal.model.text.fill_form import find_fill_tokens

QWEN = {"<|fim_prefix|>": 1, "<|fim_middle|>": 2, "<|fim_suffix|>": 3, "<|fim_pad|>": 4, "<|file_sep|>": 5}
STARCODER = {"<fim_prefix>": 1, "<fim_middle>": 2, "<fim_suffix>": 3, "<|endoftext|>": 0}
DEEPSEEK = {
    "<\uff5cfim\u2581begin\uff5c>": 1,
    "<\uff5cfim\u2581hole\uff5c>": 3,
    "<\uff5cfim\u2581end\uff5c>": 2,
}
CODE_LLAMA = {"\u2581<PRE>": 1, "\u2581<SUF>": 3, "\u2581<MID>": 2, "\u2581<EOT>": 4}
CODESTRAL = {"[PREFIX]": 1, "[SUFFIX]": 3, "[MIDDLE]": 2}


@pytest.mark.parametrize(
    ("tokens", "prompt", "ends"),
    [
        (QWEN, (9, 1, 50, 3, 60, 61, 2), {4, 5}),
        (STARCODER, (9, 1, 50, 3, 60, 61, 2), {0}),
        (DEEPSEEK, (9, 1, 50, 3, 60, 61, 2), set()),
        (CODE_LLAMA, (9, 1, 50, 3, 60, 61, 2), {4}),
        (CODESTRAL, (9, 3, 60, 61, 1, 50), set()),
    ],
)
def test_families(tokens: dict[str, int], prompt: tuple[int, ...], ends: set[int]) -> None:
    found = find_fill_tokens(tokens.get)
    assert found is not None
    assert found.prompt([9], [50], [60, 61]) == prompt
    assert found.ends == ends
    assert found.is_joined is (tokens is CODE_LLAMA)


def test_a_model_without_them() -> None:
    assert find_fill_tokens({"<|fim_prefix|>": 1, "<|fim_suffix|>": 3, "[PREFIX]": 4}.get) is None
