"""Prompts that ask models of code for the text between two others, by special tokens around those (fill in the middle).

Sources: Bavarian et al., "Efficient training of language models to fill in the middle", arXiv 2207.14255 (a prefix, a
suffix, then the middle); the model cards of StarCoder2, Qwen2.5-Coder, DeepSeek-Coder and CodeGemma; Rozière et al.,
"Code Llama", arXiv 2308.12950, section 2.3; mistral-common's fill-in-the-middle request for Codestral.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class FillForm:
    """The special tokens of one family, as texts."""

    prefix: str
    """Token before the text that precedes the gap."""
    suffix: str
    """Token before the text that follows the gap."""
    middle: str = ""
    """Token before the answer; empty: the answer follows the text that precedes the gap, which then comes last."""
    ends: tuple[str, ...] = ()
    """Tokens that end the middle, besides the model's own end tokens."""
    is_joined: bool = False
    """Whether the tokenizer puts a space before every text; the text that follows the gap must not get one."""


FILL_FORMS = (
    FillForm(
        prefix="<|fim_prefix|>",
        suffix="<|fim_suffix|>",
        middle="<|fim_middle|>",
        ends=("<|fim_pad|>", "<|repo_name|>", "<|file_sep|>", "<|file_separator|>", "<|endoftext|>"),
    ),
    FillForm(
        prefix="<fim_prefix>",
        suffix="<fim_suffix>",
        middle="<fim_middle>",
        ends=("<fim_pad>", "<file_sep>", "<|endoftext|>"),
    ),
    FillForm(
        prefix="<\uff5cfim\u2581begin\uff5c>", suffix="<\uff5cfim\u2581hole\uff5c>", middle="<\uff5cfim\u2581end\uff5c>"
    ),
    FillForm(prefix="▁<PRE>", suffix="▁<SUF>", middle="▁<MID>", ends=("▁<EOT>",), is_joined=True),
    FillForm(prefix="[PREFIX]", suffix="[SUFFIX]"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class FillTokens:
    """The same tokens as ids of one model."""

    prefix: int
    suffix: int
    middle: int | None
    ends: frozenset[int]
    is_joined: bool

    def prompt(self, head: Sequence[int], before: Sequence[int], after: Sequence[int]) -> tuple[int, ...]:
        """The tokens of a whole prompt.

        Args:
            head: tokens with which every text of the model begins.
            before: tokens of the text that precedes the gap, without `head`.
            after: tokens of the text that follows the gap.
        """
        if self.middle is None:
            return (*head, self.suffix, *after, self.prefix, *before)
        return (*head, self.prefix, *before, self.suffix, *after, self.middle)


def find_fill_tokens(token_id: Callable[[str], int | None]) -> FillTokens | None:
    """The fill-in-the-middle tokens of a tokenizer; None: it has none.

    `token_id`: returns the id of an added token, given its text.
    """
    for form in FILL_FORMS:
        prefix, suffix, middle = (token_id(text) if text else None for text in (form.prefix, form.suffix, form.middle))
        if prefix is None or suffix is None or (form.middle and middle is None):
            continue
        ends = frozenset(one for text in form.ends if (one := token_id(text)) is not None)
        return FillTokens(prefix=prefix, suffix=suffix, middle=middle, ends=ends, is_joined=form.is_joined)
    return None
