"""The tokens that a constraint allows next, as a function of the output so far.

llguidance does the work (docs/decisions/0030-guided-decoding.md): it runs an Earley parser over the lexer states of a
derivative-based regular expression engine and walks a trie of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import llguidance


class GrammarGuide:
    """Follows one request's output. Implements `core.sequences.request.TokenGuide`.

    Calls may come from any thread, one at a time. What it returns depends on nothing but its constraint and the tokens
    that it is given: a request that is computed again on other workers goes on exactly where it was.
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
    def failure(self) -> str | None:
        """Why it can say nothing of this output any more, in a line; None while it can."""
        return error_line(self._matcher) if self._matcher.is_error() else None

    def allowed(self, outputs: Sequence[int]) -> bytes:
        """The tokens that may come next.

        Args:
            outputs: all tokens so far, each of which was allowed; more than in the call before, or some of those again.

        Returns: a bit a token, the first in the lowest bit of the first byte. After a failure only ends are allowed.
        """
        surplus = self._num_consumed - len(outputs)
        if surplus > 0:
            self._matcher.rollback(surplus)
        elif surplus < 0:
            self._matcher.consume_tokens(list(outputs[self._num_consumed :]))
        self._num_consumed = len(outputs)
        return self._end_mask if self._matcher.is_error() else self._matcher.compute_bitmask()


def error_line(matcher: llguidance.LLMatcher) -> str:
    """What a matcher says of its error, without the state of its parser and the whole grammar that follow."""
    return matcher.get_error().partition("\n")[0]
