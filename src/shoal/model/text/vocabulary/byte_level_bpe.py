"""Byte-pair encoding by rank of merges: GPT-2's kind on bytes, and Gemma 4's on characters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from shoal.model.text.vocabulary.pieces import Normalization
from shoal.model.text.vocabulary.splits import WordSplit
from shoal.model.text.vocabulary.tokens import TokenKind, Vocabulary, finish


def build_bpe(vocabulary: Vocabulary, merges: Sequence[str], split: WordSplit) -> Tokenizer:
    """A tokenizer with the given merges, the most important first.

    Args:
        vocabulary: in GPT-2's alphabet of bytes if the split is on bytes.
        merges: two tokens each, with a space between them.
        split: how a text is divided into words.

    Raises:
        Exception: a merge does not consist of two tokens, or its result is not a token (the tokenizers library's own
            error).
    """
    has_bytes = any(True for _ in vocabulary.of_kind(TokenKind.BYTE))
    model = models.BPE(
        vocab=vocabulary.ids(), merges=_pairs(merges), ignore_merges=split.ignore_merges, byte_fallback=has_bytes
    )
    tokenizer = Tokenizer(model)
    words = [pre_tokenizers.Split(Regex(pattern), behavior="isolated") for pattern in split.patterns]
    if split.byte_level:
        if split.nfc:
            tokenizer.normalizer = normalizers.NFC()
        as_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*words, as_bytes])
        tokenizer.decoder = decoders.ByteLevel()
    else:
        pieces = Normalization(add_space_prefix=False)
        tokenizer.normalizer, tokenizer.decoder = pieces.normalizer(), pieces.decoder()
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(words)
    return finish(tokenizer, vocabulary)


def _pairs(merges: Sequence[str]) -> list[tuple[str, str]]:
    """The two tokens of each merge: fast if no token contains a space, as in GPT-2's alphabet."""
    pairs = [tuple(merge.split(" ")) for merge in merges]
    if {*map(len, pairs)} == {2}:
        return cast(list[tuple[str, str]], pairs)
    return [_parts(merge) for merge in merges]


def _parts(merge: str) -> tuple[str, str]:
    """The two tokens of a merge, of which the first may begin with a space."""
    cut = merge.find(" ", 1)
    if cut < 0:
        raise ValueError(f"the merge {merge[:100]!r} is not of two tokens")
    return merge[:cut], merge[cut + 1 :]
