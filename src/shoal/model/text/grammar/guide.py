"""The tokens that a constraint allows next, as a function of the output so far.

llguidance does the work (docs/decisions/0030-guided-decoding.md): it runs an Earley parser over the lexer states of a
derivative-based regular expression engine, and walks a trie of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import llguidance

from shoal.errors import InvalidRequest, RequestError
from shoal.model.text.grammar.alternatives import TOO_MANY, has_too_many_alternatives


class GrammarGuide:
    """Follows one request's output. Implements `core.sequences.request.TokenGuide`.

    Any thread may call it, but only one at a time. Results depend only on the constraint and the given tokens: a
    request that is computed again on other workers continues exactly where it was.
    """

    def __init__(self, matcher: llguidance.LLMatcher, end_mask: bytes) -> None:
        """
        Args:
            matcher: at the beginning of an output; the guide's own.
            end_mask: the bits of the tokens that end an output, and no others.
        """
        self._matcher = matcher
        self._end_mask = end_mask
        self._num_consumed = 0

    @property
    def failure(self) -> RequestError | None:
        """Why the guide can no longer follow this output; None while it can. InvalidRequest blames the constraint."""
        if not self._matcher.is_error():
            return None
        reason = error_line(self._matcher)
        if has_too_many_alternatives(reason):
            return InvalidRequest(f"the output could not be kept within its constraint, which {TOO_MANY}")
        return RequestError(f"the output could not be kept within its constraint: {reason}")

    def allowed(self, outputs: Sequence[int]) -> bytes:
        """The tokens that may come next.

        Args:
            outputs: all tokens so far, each of which was allowed: a continuation of those in the previous call, or some
                of them.

        Returns: a bit for each token, the first in the lowest bit of the first byte. After a failure only end tokens
        are allowed.
        """
        surplus = self._num_consumed - len(outputs)
        if surplus > 0:
            self._matcher.rollback(surplus)
        elif surplus < 0:
            self._matcher.consume_tokens(list(outputs[self._num_consumed :]))
        self._num_consumed = len(outputs)
        return self._end_mask if self._matcher.is_error() else self._matcher.compute_bitmask()


def error_line(matcher: llguidance.LLMatcher) -> str:
    """A matcher's error without the parser's state and the whole grammar, which follow it."""
    return matcher.get_error().partition("\n")[0]
