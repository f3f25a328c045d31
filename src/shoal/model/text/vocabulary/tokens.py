"""The tokens of a vocabulary and their kinds: the common form of all files, from which tokenizers are built."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from math import isfinite

from tokenizers import AddedToken, Tokenizer, processors

MAX_TOKENS = 1 << 20
"""Four times the largest known vocabularies (262144, Gemma 3): bounds what a file can make us build."""
MAX_TOKEN_CHARS = 1024
"""Longest token: twice the longest known one (512 dashes, GPT-NeoX). The ways to cut one in two grow with its
length."""
ALWAYS_CONTROL = frozenset(
    {
        *("<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end|>", "<end_of_turn>", "<|endoftext|>", "<|end_of_text|>"),
        *(
            "<|return|>",
            "<|call|>",
            "<end_of_utterance>",
            "<turn|>",
            "<|tool_response>",
            "<\uff5cend\u2581of\u2581sentence\uff5c>",
        ),
    }
)
"""Tokens that can only be the end of something, although some files call them words."""


class TokenKind(IntEnum):
    """Kind of a token. Source: SentencePiece, sentencepiece_model.proto; GGUF has the same numbers."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


SPECIAL_KINDS = (TokenKind.CONTROL, TokenKind.UNKNOWN)
"""Kinds that are left out of decoded text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Vocabulary:
    """Tokens by id, and those that stand around a text.

    Raises:
        ValueError: there are equal tokens, too many or too long ones; or an id or a length does not fit.
    """

    tokens: Sequence[str]
    kinds: Sequence[int]
    """Kind of each token, as in TokenKind; an unknown number has no special meaning."""
    scores: Sequence[float] = ()
    """Score of each token, the larger the better; empty if the algorithm has none."""
    unknown_id: int | None = None
    """Token for what no other token covers."""
    first_ids: tuple[int, ...] = ()
    """Tokens before every text."""
    last_ids: tuple[int, ...] = ()
    """Tokens after every text."""
    strips_right: bool = False
    """Whether special tokens swallow the white space after them, except those of the original vocabulary."""

    def __post_init__(self) -> None:
        num_tokens = len(self.tokens)
        if not 0 < num_tokens <= MAX_TOKENS:
            raise ValueError(f"a vocabulary of {num_tokens} tokens; there can be 1 to {MAX_TOKENS}")
        if len(self.kinds) != num_tokens or len(self.scores) not in (0, num_tokens):
            raise ValueError(f"{num_tokens} tokens, but {len(self.kinds)} token types and {len(self.scores)} scores")
        if not all(map(isfinite, self.scores)):
            raise ValueError("a token's score is not a finite number")
        for token_id in (self.unknown_id, *self.first_ids, *self.last_ids):
            if token_id is not None and not 0 <= token_id < num_tokens:
                raise ValueError(f"the special token {token_id} is none of the {num_tokens} tokens")
        if (longest := max(map(len, self.tokens))) > MAX_TOKEN_CHARS:
            raise ValueError(f"a token of {longest} characters; the longest can have {MAX_TOKEN_CHARS}")
        if len(ids := self.ids()) != num_tokens:
            twice = next(token for token_id, token in enumerate(self.tokens) if ids[token] != token_id)
            raise ValueError(f"the token {twice!r} stands twice in the vocabulary")

    def ids(self) -> dict[str, int]:
        """Ids by token."""
        return dict(zip(self.tokens, range(len(self.tokens)), strict=True))

    def of_kind(self, *kinds: TokenKind) -> Iterable[int]:
        """Ids of the tokens of some kinds."""
        wanted = frozenset(map(int, kinds))
        return (token_id for token_id, kind in enumerate(self.kinds) if kind in wanted)


def control_where_certain(tokens: Sequence[str], kinds: Sequence[int]) -> list[int]:
    """The kinds of tokens, corrected for tokens that can only be control tokens."""
    put_right = list(kinds)
    for token in ALWAYS_CONTROL.intersection(tokens):
        put_right[tokens.index(token)] = TokenKind.CONTROL
    return put_right


def finish(tokenizer: Tokenizer, vocabulary: Vocabulary, *, spaced_are_normalized: bool = False) -> Tokenizer:
    """Add what all algorithms have in common: tokens that are matched whole, and those around a text.

    Args:
        tokenizer: has its model, normalizer, pre-tokenizer and decoder.
        vocabulary: its tokens.
        spaced_are_normalized: whether user-defined tokens with a space match the text after its spaces have become
            U+2581, so that both spellings are that token.

    Mutates:
        tokenizer
    """
    special: list[AddedToken] = []
    plain: list[AddedToken] = []
    for token_id in vocabulary.of_kind(*SPECIAL_KINDS, TokenKind.USER_DEFINED):
        text, kind = vocabulary.tokens[token_id], vocabulary.kinds[token_id]
        is_special = kind in SPECIAL_KINDS
        strips = vocabulary.strips_right and text not in ("<unk>", "<s>", "<|endoftext|>")
        normalized = spaced_are_normalized and not is_special and " " in text
        added = AddedToken(text, special=is_special, normalized=normalized, rstrip=strips)
        (special if is_special else plain).append(added)
    tokenizer.add_special_tokens(special)
    tokenizer.add_tokens(plain)
    if vocabulary.first_ids or vocabulary.last_ids:
        tokenizer.post_processor = surround(vocabulary.first_ids, vocabulary.last_ids, vocabulary.tokens.__getitem__)
    return tokenizer


def surround(
    first_ids: Sequence[int], last_ids: Sequence[int], text_of: Callable[[int], str | None]
) -> processors.TemplateProcessing:
    """Puts tokens around a text, under names of our own, because theirs may have a meaning in a template."""
    names = {token_id: f"token{token_id}" for token_id in (*first_ids, *last_ids)}
    first, last = [names[token_id] for token_id in first_ids], [names[token_id] for token_id in last_ids]
    special = [{"id": name, "ids": [token_id], "tokens": [text_of(token_id)]} for token_id, name in names.items()]
    return processors.TemplateProcessing(
        single=[*first, "$A", *last], pair=[*first, "$A", *last, *first, "$B", *last], special_tokens=special
    )
