"""SentencePiece's unigram language model, which GGUF calls `t5`: of all ways to cut a text, the likeliest.

Source: Kudo, Subword Regularization, arXiv 1804.10959.
"""

from __future__ import annotations

from tokenizers import Tokenizer, models

from shoal.model.text.vocabulary.pieces import Normalization
from shoal.model.text.vocabulary.tokens import TokenKind, Vocabulary, finish


def build_unigram(vocabulary: Vocabulary, normalization: Normalization) -> Tokenizer:
    """A tokenizer by likelihood.

    Args:
        vocabulary: has scores, which are logarithms.
        normalization: what is done to a text first.

    Raises:
        ValueError: there is no unknown token.
    """
    if vocabulary.unknown_id is None:
        raise ValueError("it has no unknown token")
    has_bytes = any(True for _ in vocabulary.of_kind(TokenKind.BYTE))
    pieces = list(zip(vocabulary.tokens, vocabulary.scores, strict=True))
    tokenizer = Tokenizer(models.Unigram(pieces, vocabulary.unknown_id, has_bytes))
    tokenizer.normalizer = normalization.normalizer()
    tokenizer.decoder = normalization.decoder()
    return finish(tokenizer, vocabulary)
