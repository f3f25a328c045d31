"""SentencePiece's normalization of a text before it is cut into pieces, and its reverse."""

from __future__ import annotations

from dataclasses import dataclass

from tokenizers import Regex, decoders, normalizers

SPACE = "\u2581"
"""The character that pieces have for a space."""
_EXTRA_SPACES = ((rf"\A +|[ {SPACE}]+\z", ""), (" {2,}", " "))
"""Patterns and their replacements, for spaces only and no other white space. Source: SentencePiece, normalizer.cc."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Normalization:
    """Source: SentencePiece, NormalizerSpec of sentencepiece_model.proto."""

    add_space_prefix: bool
    """Whether a text, and what follows a token that is matched whole, gets a leading space."""
    remove_extra_spaces: bool = False
    """Whether runs of spaces become one space, and spaces at both ends are removed."""
    charsmap: bytes = b""
    """Replacements of characters, compiled by SentencePiece; empty for none."""

    def normalizer(self) -> normalizers.Normalizer:
        steps: list[normalizers.Normalizer] = [normalizers.Precompiled(self.charsmap)] if self.charsmap else []
        if self.remove_extra_spaces:
            steps += [normalizers.Replace(Regex(pattern), kept) for pattern, kept in _EXTRA_SPACES]
        if self.add_space_prefix:
            steps.append(normalizers.Prepend(SPACE))
        return normalizers.Sequence([*steps, normalizers.Replace(" ", SPACE)])

    def decoder(self) -> decoders.Decoder:
        steps = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
        return decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if self.add_space_prefix else steps)
