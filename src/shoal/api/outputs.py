"""The answers of `shoal.LLM`. Names and meanings are those of vLLM."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from shoal.generation.generation import Usage
from shoal.generation.output.choice import PositionLogprobs


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletionOutput:
    """One continuation of a prompt."""

    index: int
    """The index among the `n` continuations of its prompt."""
    text: str
    token_ids: Sequence[int]
    """The output tokens, including the one that ended the text."""
    finish_reason: str | None
    """`stop` for an end token or a stop text, `length` for max_tokens; None if the stream was left before its end."""
    logprobs: Sequence[PositionLogprobs] | None
    """Natural-log probabilities, one entry for each token whose text is part of `text`; None if none were requested."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestOutput:
    """The answer to one prompt. `text`, `token_ids`, `finish_reason` and `logprobs` are those of the first
    continuation."""

    prompt: str | None
    """The text that was continued, after the chat template was applied; None if token ids were given."""
    prompt_token_ids: Sequence[int]
    outputs: Sequence[CompletionOutput]
    """The `n` continuations."""
    usage: Usage
    ttft_s: float
    """Seconds to the first token, from the start of the call or, in a list of prompts, from the prompt's turn."""
    duration_s: float
    """Seconds from the same moment to the last token."""

    @property
    def text(self) -> str:
        """The text of the first continuation."""
        return self.outputs[0].text

    @property
    def token_ids(self) -> Sequence[int]:
        """The tokens of the first continuation."""
        return self.outputs[0].token_ids

    @property
    def finish_reason(self) -> str | None:
        """The reason why the first continuation ended."""
        return self.outputs[0].finish_reason

    @property
    def logprobs(self) -> Sequence[PositionLogprobs] | None:
        """The log-probabilities of the first continuation."""
        return self.outputs[0].logprobs
