"""Beam search: the most likely outputs are followed side by side, and the best one that has ended is the answer.

Source: openai/whisper, whisper/decoding.py, BeamSearchDecoder and MaximumLikelihoodRanker: which candidates are
followed, when the search ends, and how outputs of different lengths are compared.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from shoal.protocol.language_messages import TokenLogprobs


class Hypothesis(NamedTuple):
    """One possible output, including its stop token if it has ended."""

    token_ids: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    """Log-probability of each token."""
    total: float = 0.0
    """The sum of the log-probabilities."""

    def followed_by(self, token_id: int, logprob: float) -> Hypothesis:
        """The hypothesis with one more token."""
        return Hypothesis((*self.token_ids, token_id), (*self.logprobs, logprob), self.total + logprob)


class BeamProgress(NamedTuple):
    """The state of one beam search."""

    live: tuple[Hypothesis, ...] = (Hypothesis(),)
    """Hypotheses that have not ended, most likely first; all have the same length."""
    finished: tuple[Hypothesis, ...] = ()
    """Hypotheses that have ended, in the order of their ends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BeamSearch:
    """Settings of a request's beam search."""

    num_beams: int
    """Hypotheses that are followed, >= 1."""
    patience: float = 1.0
    """The search ends when `patience * num_beams` hypotheses have ended; > 0."""
    length_penalty: float | None = None
    """Sums of log-probabilities are divided by ((5 + tokens) / 6) ** length_penalty; None: by the number of tokens."""

    @property
    def num_candidates(self) -> int:
        """How many of the most likely tokens each hypothesis needs: one more than beams, since one may end it."""
        return self.num_beams + 1

    @property
    def num_wanted(self) -> int:
        """The number of ended hypotheses that ends the search."""
        return max(1, round(self.num_beams * self.patience))

    def advance(
        self, progress: BeamProgress, candidates: Sequence[TokenLogprobs], stop_token_ids: frozenset[int]
    ) -> tuple[BeamProgress, list[int]]:
        """Advance the search by one token.

        Args:
            progress: the state before the token.
            candidates: the most likely tokens after each live hypothesis.
            stop_token_ids: tokens that end a hypothesis.

        Returns:
            The new state, and for each live hypothesis the index of the one that it continues.
        """
        options = sorted(
            (
                (hypothesis.total + logprob, place, token_id, logprob)
                for place, (hypothesis, found) in enumerate(zip(progress.live, candidates, strict=True))
                for token_id, logprob in zip(found.top_ids, found.top_logprobs, strict=True)
                if logprob > -math.inf
            ),
            key=lambda option: (-option[0], option[1], option[2]),
        )
        live: list[Hypothesis] = []
        finished, parents = list(progress.finished), list[int]()
        for _, place, token_id, logprob in options:
            hypothesis = progress.live[place].followed_by(token_id, logprob)
            if token_id not in stop_token_ids:
                live.append(hypothesis)
                parents.append(place)
                if len(live) == self.num_beams:
                    break
            elif len(finished) < self.num_wanted:
                finished.append(hypothesis)
        return BeamProgress(tuple(live), tuple(finished)), parents

    def is_over(self, progress: BeamProgress, max_tokens: int) -> bool:
        """Whether enough hypotheses have ended, or none can continue."""
        if len(progress.finished) >= self.num_wanted or not progress.live:
            return True
        return len(progress.live[0].token_ids) >= max_tokens

    def best(self, progress: BeamProgress, stop_token_ids: frozenset[int]) -> Hypothesis:
        """The best hypothesis. If fewer than `num_beams` have ended, the most likely live ones compete as well."""
        num_missing = max(0, self.num_beams - len(progress.finished))
        found = (*progress.finished, *progress.live[:num_missing])
        return max(found, key=lambda one: self.score(one, stop_token_ids))

    def score(self, hypothesis: Hypothesis, stop_token_ids: frozenset[int]) -> float:
        """The score by which outputs of any length are compared; higher is better. Stop tokens add no length."""
        num_tokens = sum(token not in stop_token_ids for token in hypothesis.token_ids)
        if self.length_penalty is None:
            return hypothesis.total / max(1, num_tokens)
        return hypothesis.total / ((5 + num_tokens) / 6) ** self.length_penalty
