"""The bytes of single tokens, which may be only a part of a character."""

from __future__ import annotations

import re
from typing import Any

from tokenizers import Tokenizer as Backend

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
"""Source: SentencePiece, byte_fallback."""


def _byte_letters() -> dict[str, int]:
    """The byte that each letter stands for: printable bytes stand for themselves, others for letters from U+0100 on.

    Source: GPT-2's encoder.py, bytes_to_unicode; the pre-tokenizer ByteLevel of tokenizers.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + place): byte for place, byte in enumerate(others)}


class TokenPieces:
    """Decodes tokens as the tokenizer's decoder would, but one by one, and without replacing broken characters."""

    def __init__(self, backend: Backend) -> None:
        decoder: Any = backend.decoder
        kinds = b"" if decoder is None else bytes(decoder.__getstate__())
        self._backend = backend
        self._letters = _byte_letters() if b'"ByteLevel"' in kinds else {}
        self._has_byte_tokens = b'"ByteFallback"' in kinds
        self._added = set(backend.get_added_tokens_decoder())

    def bytes_of(self, token_id: int) -> bytes | None:
        """The token's bytes; None if they are those of the token's text."""
        token = self._backend.id_to_token(token_id)
        if token is None or token_id in self._added:
            return None
        if self._letters and all(letter in self._letters for letter in token):
            return bytes(self._letters[letter] for letter in token)
        found = _BYTE_TOKEN.fullmatch(token) if self._has_byte_tokens else None
        return bytes([int(found[1], 16)]) if found else None
