"""SentencePiece's byte-pair encoding, which GGUF calls `llama` (Llama 2, Mistral, Phi-3, Gemma).

It joins the two neighbors whose union is the token with the best score. The tokenizers library joins by rank of pairs
instead. So every way to cut a token in two becomes a merge, ordered by the token's score; among equals the longer first
part goes first, as in the tokenizer.json files that Hugging Face made from such vocabularies.
Source: Kudo and Richardson, SentencePiece, arXiv 1808.06226; src/bpe_model.cc of its repository.
"""

from __future__ import annotations

from tokenizers import Tokenizer, models

from shoal.model.text.vocabulary.pieces import Normalization
from shoal.model.text.vocabulary.tokens import TokenKind, Vocabulary, finish

_MERGED_KINDS = (TokenKind.NORMAL, TokenKind.UNUSED)


def build_sentencepiece_bpe(vocabulary: Vocabulary, normalization: Normalization) -> Tokenizer:
    """A tokenizer whose merges follow from the scores.

    Args:
        vocabulary: has scores.
        normalization: is applied to a text first.
    """
    has_bytes = any(True for _ in vocabulary.of_kind(TokenKind.BYTE))
    unknown = None if vocabulary.unknown_id is None else vocabulary.tokens[vocabulary.unknown_id]
    model = models.BPE(
        vocab=vocabulary.ids(), merges=_merges(vocabulary), unk_token=unknown, fuse_unk=True, byte_fallback=has_bytes
    )
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalization.normalizer()
    tokenizer.decoder = normalization.decoder()
    return finish(tokenizer, vocabulary, spaced_are_normalized=not normalization.add_space_prefix)


def _merges(vocabulary: Vocabulary) -> list[tuple[str, str]]:
    tokens, scores = vocabulary.tokens, vocabulary.scores
    merged = list(vocabulary.of_kind(*_MERGED_KINDS))
    parts = {tokens[token_id] for token_id in merged}
    ranked = sorted(
        (-scores[token_id], -cut, cut - len(token), token)
        for token_id in merged
        for token in (tokens[token_id],)
        for cut in range(1, len(token))
        if token[:cut] in parts and token[cut:] in parts
    )
    return [(token[:-cut], token[-cut:]) for _, cut, _, token in ranked]
