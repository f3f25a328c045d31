"""Beam search: the likeliest outputs are followed side by side, and the best of those that have ended is the answer.

Source: openai/whisper, whisper/decoding.py, BeamSearchDecoder and MaximumLikelihoodRanker, for which candidates are
followed, when the search ends, and how outputs of different lengths are compared.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from shoal.protocol.language_messages import TokenLogprobs


class Hypothesis(NamedTuple):
    """One possible output: with its stop token, if it has ended."""

    token_ids: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    """of each token"""
    total: float = 0.0
    """sum of the log-probabilities"""

    def followed_by(self, token_id: int, logprob: float) -> Hypothesis:
        """With one token more."""
        return Hypothesis((*self.token_ids, token_id), (*self.logprobs, logprob), self.total + logprob)


class BeamProgress(NamedTuple):
    """Where the search for one output is."""

    live: tuple[Hypothesis, ...] = (Hypothesis(),)
    """that have not ended, likeliest first; all of the same length"""
    finished: tuple[Hypothesis, ...] = ()
    """that have ended, in the order in which they did"""


@dataclass(frozen=True, slots=True, kw_only=True)
class BeamSearch:
    """How the best output of a request is looked for."""

    num_beams: int
    """Hypotheses that are followed, >= 1."""
    patience: float = 1.0
    """The search ends when so many times `num_beams` hypotheses have ended; above 0."""
    length_penalty: float | None = None
    """Exponent of ((5 + tokens) / 6), by which a sum of log-probabilities is divided; None: it is divided by tokens."""

    @property
    def num_candidates(self) -> int:
        """The most likely tokens that are to be known of each hypothesis: one of them may end it."""
        return self.num_beams + 1

    @property
    def num_wanted(self) -> int:
        """Hypotheses that have to end."""
        return max(1, round(self.num_beams * self.patience))

    def advance(
        self, progress: BeamProgress, candidates: Sequence[TokenLogprobs], stop_token_ids: frozenset[int]
    ) -> tuple[BeamProgress, list[int]]:
        """One token further.

        Args:
            progress: before it.
            candidates: the most likely tokens after each live hypothesis.
            stop_token_ids: that end one.

        Returns:
            The progress, and for each live hypothesis the place of the one that it goes on from.
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
        """Whether enough have ended, or none can go on."""
        if len(progress.finished) >= self.num_wanted or not progress.live:
            return True
        return len(progress.live[0].token_ids) >= max_tokens

    def best(self, progress: BeamProgress, stop_token_ids: frozenset[int]) -> Hypothesis:
        """The answer. Where fewer than `num_beams` have ended, the likeliest of those that have not count as well."""
        num_missing = max(0, self.num_beams - len(progress.finished))
        found = (*progress.finished, *progress.live[:num_missing])
        return max(found, key=lambda one: self.score(one, stop_token_ids))

    def score(self, hypothesis: Hypothesis, stop_token_ids: frozenset[int]) -> float:
        """What outputs are compared by, whatever their lengths: higher is better. A stop token adds no length."""
        num_tokens = sum(token not in stop_token_ids for token in hypothesis.token_ids)
        if self.length_penalty is None:
            return hypothesis.total / max(1, num_tokens)
        return hypothesis.total / ((5 + num_tokens) / 6) ** self.length_penalty
