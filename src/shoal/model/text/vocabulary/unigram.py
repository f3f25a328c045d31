"""SentencePiece's unigram language model, which GGUF calls `t5`: it cuts a text in the most likely way.

Source: Kudo, Subword Regularization, arXiv 1804.10959.
"""

from __future__ import annotations

from tokenizers import Tokenizer, models

from shoal.model.text.vocabulary.pieces import Normalization
from shoal.model.text.vocabulary.tokens import TokenKind, Vocabulary, finish


def build_unigram(vocabulary: Vocabulary, normalization: Normalization) -> Tokenizer:
    """A tokenizer that takes the most likely pieces.

    Args:
        vocabulary: has scores, which are logarithms of probabilities.
        normalization: is applied to a text first.

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
