"""llama.cpp's own test vectors: vocabularies of real models with texts and the tokens that Hugging Face makes of them.

They are not kept here. `SHOAL_VOCABULARIES=FOLDER` is a folder with its `ggml-vocab-NAME.gguf`, `.inp` and `.out`
files, which are in its repository below `models/` and in the source distribution of llama-cpp-python.
"""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

import pytest

from shoal.model.text.tokenizer import load_tokenizer

FOLDER = Path(os.environ.get("SHOAL_VOCABULARIES") or "nowhere")
SEPARATOR = "\n__ggml_vocab_test__\n"
COMPOSED = ("ggml-vocab-qwen35",)
"""Their expected tokens were not made with the model's own tokenizer, which composes characters first."""


@pytest.mark.skipif(not FOLDER.is_dir(), reason="SHOAL_VOCABULARIES names no folder")
@pytest.mark.parametrize("expected", sorted(FOLDER.glob("*.gguf.out")), ids=lambda path: path.name)
def test_tokens_of_real_vocabularies(expected: Path) -> None:
    path = expected.with_suffix("")
    tokenizer = load_tokenizer(path)
    texts = Path(f"{path}.inp").read_text(encoding="utf-8").split(SEPARATOR)
    outputs = [[int(token) for token in line.split()] for line in expected.read_text().split("\n")]
    assert len(outputs) >= len(texts) > 40
    for text, tokens in zip(texts, outputs, strict=False):
        if path.stem not in COMPOSED or unicodedata.is_normalized("NFC", text):
            assert tokenizer.encode(text, add_special=False) == tokens, text
