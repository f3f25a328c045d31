"""Text from a growing list of tokens, a piece at a time, without ever taking a piece back."""

from __future__ import annotations

from collections.abc import Callable, Sequence

REPLACEMENT = "\ufffd"
"""what a decoder puts for bytes that are no UTF-8, an unfinished character included"""
CONTEXT_TOKENS = 6
"""Tokens of the prompt that are decoded along, because some decoders drop the first token's leading space."""
MAX_PENDING_TOKENS = 16
"""Tokens after which text that still looks unfinished is given out: a character has at most 4 bytes, so by then it
is broken for good. Source: RFC 3629, section 3; the rest is room for context."""


class Detokenizer:
    """Streams the text of one sequence. Each push decodes a short window only, so it costs the same at any length.

    The window begins with tokens whose text is out already (context), and `_num_out` counts its characters given out.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], context: Sequence[int] = ()) -> None:
        self._decode = decode
        self._window = list(context[-CONTEXT_TOKENS:])
        self._num_context = len(self._window)
        self._num_out = len(decode(self._window)) if self._window else 0

    def push(self, token_id: int) -> str:
        """The text that became final with this token: empty while a character's bytes are incomplete."""
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
        """What was held back, at the end of the sequence. The next push starts a new text."""
        piece = self._decode(self._window)[self._num_out :]
        self._window, self._num_context, self._num_out = [], 0, 0
        return piece

    def _forget_context(self) -> None:
        self._window = self._window[self._num_context :]
        self._num_context = len(self._window)
        self._num_out = len(self._decode(self._window))
