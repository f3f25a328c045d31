"""Text from a growing list of tokens, piece by piece; no piece is ever taken back."""

from __future__ import annotations

from collections.abc import Callable, Sequence

REPLACEMENT = "\ufffd"
"""What a decoder returns for bytes that are not UTF-8, such as an incomplete character."""
CONTEXT_TOKENS = 6
"""Tokens of the prompt that are decoded as context, because some decoders drop the first token's leading space."""
MAX_PENDING_TOKENS = 16
"""Tokens after which text that still looks incomplete is returned: a character has at most 4 bytes, so by then it is
broken. Source: RFC 3629, section 3; the rest is room for context."""


class Detokenizer:
    """Streams the text of one sequence. Each push decodes only a short window, so its cost does not depend on the
    length.

    The window begins with context, tokens whose text has been returned; `_num_out` counts the characters of the
    window's text that have been returned.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], context: Sequence[int] = ()) -> None:
        self._decode = decode
        self._window = list(context[-CONTEXT_TOKENS:])
        self._num_context = len(self._window)
        self._num_out = len(decode(self._window)) if self._window else 0

    def push(self, token_id: int) -> str:
        """The text that became final with this token; empty while a character is incomplete."""
        self._window.append(token_id)
        text = self._decode(self._window)
        stuck = len(self._window) - self._num_context >= MAX_PENDING_TOKENS
        final = text if stuck else text.rstrip(REPLACEMENT)
        piece = final[self._num_out :]
        self._num_out = max(self._num_out, len(final))
        if len(final) == len(text) and (piece or stuck):
            self._forget_context()
        return piece

    def flush(self) -> str:
        """The rest of the text at the end of the sequence. The next push starts a new text."""
        piece = self._decode(self._window)[self._num_out :]
        self._window, self._num_context, self._num_out = [], 0, 0
        return piece

    def _forget_context(self) -> None:
        self._window = self._window[self._num_context :]
        self._num_context = len(self._window)
        self._num_out = len(self._decode(self._window))
