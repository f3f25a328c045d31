"""BERT's WordPiece, which GGUF calls `bert`: it repeatedly takes the longest token that begins the rest of a word.

GGUF marks the tokens that begin a word, with U+2581; the tokenizers library marks those that continue one.
Source: Wu et al., arXiv 1609.08144; gguf-py's vocabulary of BERT models.
"""

from __future__ import annotations

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

from shoal.model.text.vocabulary.pieces import SPACE
from shoal.model.text.vocabulary.tokens import SPECIAL_KINDS, TokenKind, Vocabulary, finish

INSIDE_A_WORD = "##"
_WHOLE_KINDS = (*SPECIAL_KINDS, TokenKind.USER_DEFINED)


def build_wordpiece(vocabulary: Vocabulary, *, lowercase: bool, strip_accents: bool) -> Tokenizer:
    """A tokenizer by longest match.

    Args:
        vocabulary: as in a GGUF file, with an unknown token.
        lowercase: whether texts become lower case.
        strip_accents: whether accents are removed.

    Raises:
        ValueError: there is no unknown token.
    """
    if vocabulary.unknown_id is None:
        raise ValueError("it has no unknown token")
    tokens = [_spelled(token, kind) for token, kind in zip(vocabulary.tokens, vocabulary.kinds, strict=True)]
    ids = {token: token_id for token_id, token in enumerate(tokens)}
    tokenizer = Tokenizer(
        models.WordPiece(ids, unk_token=tokens[vocabulary.unknown_id], continuing_subword_prefix=INSIDE_A_WORD)
    )
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase, strip_accents=strip_accents)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(INSIDE_A_WORD, cleanup=False)
    return finish(tokenizer, vocabulary)


def _spelled(token: str, kind: int) -> str:
    if kind in _WHOLE_KINDS:
        return token
    return token.removeprefix(SPACE) if token.startswith(SPACE) else INSIDE_A_WORD + token
