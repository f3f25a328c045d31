"""Log-probabilities of prompts.

A prompt is scored by a request of its own, whose output tokens are those of the prompt. Its choice comes before those
that continue prompts, and its numbers become `prompt_logprobs` in the answer.

Source: vLLM's OpenAI-compatible server, `prompt_logprobs`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import msgspec

from shoal.generation.generation import GenerationSpec, Usage
from shoal.generation.output.choice import ChoiceDelta, FinishedChoice, PositionLogprobs
from shoal.protocol.language_messages import Sampling
from shoal.server.openai.errors import ApiError
from shoal.server.openai.form import Form, finite, top_pairs

Scores = list[dict[str, dict[str, object]] | None]
"""For each token of a prompt, itself and the most likely tokens in its place, by their ids; None for the first
token."""


def scoring_spec(prompt_ids: tuple[int, ...], num_logprobs: int) -> GenerationSpec:
    """Scores every token of a prompt except the first. The prompt has at least two tokens."""
    return GenerationSpec(
        prompt_ids=prompt_ids[:1], targets=prompt_ids[1:], sampling=Sampling(num_logprobs=num_logprobs)
    )


class ScoredForm:
    """A form whose answers contain the scores of their prompts. Implements `Form`, but is never streamed."""

    def __init__(
        self, form: Form, prompts: Sequence[tuple[int, ...]], token_bytes: Callable[[int], bytes], *, has_one: bool
    ) -> None:
        """
        Args:
            form: of the answers.
            prompts: tokens of each prompt.
            token_bytes: returns the bytes of a token.
            has_one: whether the answer itself, rather than each choice, contains the scores of its only prompt.
        """
        self._form = form
        self._prompts = prompts
        self._token_bytes = token_bytes
        self._has_one = has_one

    @classmethod
    def of(
        cls,
        form: Form,
        specs: Sequence[GenerationSpec],
        prompts: Sequence[tuple[int, ...]],
        num_logprobs: int,
        token_bytes: Callable[[int], bytes],
        *,
        has_one: bool = False,
    ) -> tuple[list[GenerationSpec], ScoredForm]:
        """`specs` and `form` with scores: what to generate, and the form of the answer."""
        scoring = [scoring_spec(prompt, num_logprobs) for prompt in prompts if len(prompt) > 1]
        return [*scoring, *specs], cls(form, prompts, token_bytes, has_one=has_one)

    def opening(self, num_choices: int) -> bytes:
        """See `Form.opening`."""
        return self._form.opening(num_choices)

    def event(self, delta: ChoiceDelta) -> bytes:
        """See `Form.event`."""
        return self._form.event(delta)

    def closing(self, usage: Usage) -> bytes:
        """See `Form.closing`."""
        return self._form.closing(usage)

    def failure(self, error: ApiError) -> bytes:
        """See `Form.failure`."""
        return self._form.failure(error)

    def answer(self, choices: Sequence[FinishedChoice], usage: Usage) -> bytes:
        """The body with scores."""
        num_scored = sum(len(prompt) > 1 for prompt in self._prompts)
        scored = iter(choices[:num_scored])
        scores = [self._scores(next(scored).logprobs if len(prompt) > 1 else ()) for prompt in self._prompts]
        rest = [replace(choice, index=choice.index - num_scored) for choice in choices[num_scored:]]
        counts = replace(
            usage,
            prompt_tokens=usage.prompt_tokens - num_scored,
            completion_tokens=usage.completion_tokens - sum(len(prompt) - 1 for prompt in self._prompts),
        )
        fields: dict[str, Any] = msgspec.json.decode(self._form.answer(rest, counts))
        if self._has_one:
            fields["prompt_logprobs"] = scores[0]
        else:
            for place, choice in enumerate(fields["choices"]):
                choice["prompt_logprobs"] = scores[place * len(scores) // len(fields["choices"])]
        return msgspec.json.encode(fields)

    def _scores(self, positions: Sequence[PositionLogprobs]) -> Scores:
        return [None, *(self._score(position) for position in positions)]

    def _score(self, position: PositionLogprobs) -> dict[str, dict[str, object]]:
        """The scores at one position. The rank of a token outside the most likely ones is unknown."""
        pairs: dict[int, tuple[int | None, float]] = {}
        for rank, (token_id, logprob) in enumerate(top_pairs(position.logprobs), start=1):
            pairs[token_id] = (rank, logprob)
        pairs.setdefault(position.token_id, (None, finite(position.logprobs.logprob)))
        return {
            str(token_id): {
                "logprob": logprob,
                "rank": rank,
                "decoded_token": self._token_bytes(token_id).decode(errors="replace"),
            }
            for token_id, (rank, logprob) in pairs.items()
        }
