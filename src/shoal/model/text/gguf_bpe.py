"""A byte-level BPE tokenizer straight from a GGUF file's metadata, for vocabularies whose text splitting is known.

Building one through transformers takes seconds, and for SmolLM it joins a number with the spaces before it, which the
model's own tokenizer and llama.cpp do not.
"""

from __future__ import annotations

from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from shoal.model.formats.gguf_header import GgufHeader

CONTROL, USER_DEFINED = 3, 4
"""values of tokenizer.ggml.token_type. Source: GGUF specification, section "Tokenizer" """
LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Source: pre_tokenizer of tokenizer.json in meta-llama/Meta-Llama-3-8B"""
QWEN2_SPLIT = LLAMA3_SPLIT.replace(r"\p{N}{1,3}", r"\p{N}")
"""Source: pre_tokenizer of tokenizer.json in Qwen/Qwen2-0.5B"""
LLAMA3 = ("llama-bpe", "llama-v3", "llama3")
QWEN2 = ("qwen2", "deepseek-r1-qwen")
KNOWN_SPLITS = ("smollm", "gpt-2", *LLAMA3, *QWEN2)
"""values of tokenizer.ggml.pre"""


def knows(header: GgufHeader) -> bool:
    """Whether `build_byte_level_bpe` can build this file's tokenizer."""
    metadata = header.metadata
    return metadata.get("tokenizer.ggml.model") == "gpt2" and metadata.get("tokenizer.ggml.pre") in KNOWN_SPLITS


def build_byte_level_bpe(header: GgufHeader) -> Tokenizer:
    """The tokenizer that the metadata describes."""
    split = header.metadata["tokenizer.ggml.pre"]
    tokens = header.array("tokenizer.ggml.tokens") or []
    merges = [tuple(merge.split(" ", 1)) for merge in header.array("tokenizer.ggml.merges") or []]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, ignore_merges=split in LLAMA3))
    if split in QWEN2:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = _pre_tokenizer(split)
    tokenizer.decoder = decoders.ByteLevel()
    _add_special_tokens(tokenizer, tokens, header.array("tokenizer.ggml.token_type") or [])
    if header.metadata.get("tokenizer.ggml.add_bos_token", split in LLAMA3):
        _prepend_bos(tokenizer, tokens, header.metadata.get("tokenizer.ggml.bos_token_id"))
    return tokenizer


def _pre_tokenizer(split: str) -> Any:
    match split:
        case "gpt-2":
            return pre_tokenizers.ByteLevel(add_prefix_space=False)
        case "smollm":
            first = pre_tokenizers.Digits(individual_digits=True)
            return pre_tokenizers.Sequence([first, pre_tokenizers.ByteLevel(add_prefix_space=False)])
        case _:
            pattern = Regex(LLAMA3_SPLIT if split in LLAMA3 else QWEN2_SPLIT)
            bytes_only = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
            return pre_tokenizers.Sequence([pre_tokenizers.Split(pattern, behavior="isolated"), bytes_only])


def _add_special_tokens(tokenizer: Tokenizer, tokens: list[str], kinds: list[int]) -> None:
    """Control tokens are special (left out of decoded text), user-defined ones are only matched whole."""
    special = [
        AddedToken(t, special=True, normalized=False) for t, kind in zip(tokens, kinds, strict=False) if kind == CONTROL
    ]
    plain = [
        AddedToken(t, special=False, normalized=False)
        for t, kind in zip(tokens, kinds, strict=False)
        if kind == USER_DEFINED
    ]
    tokenizer.add_special_tokens(special)
    tokenizer.add_tokens(plain)


def _prepend_bos(tokenizer: Tokenizer, tokens: list[str], bos_id: int | None) -> None:
    if bos_id is None:
        return
    bos = tokens[bos_id]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, bos_id)]
    )
