"""What `shoal.LLM` answers with. The names are vLLM's, and so is their meaning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from shoal.generation.generation import Usage
from shoal.generation.output.choice import PositionLogprobs


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletionOutput:
    """One continuation of a prompt."""

    index: int
    """among the `n` of its prompt"""
    text: str
    token_ids: Sequence[int]
    """output tokens, the one that ended the text included"""
    finish_reason: str | None
    """`stop`: an end token or a stop text; `length`: max_tokens; None: it was left before its end"""
    logprobs: Sequence[PositionLogprobs] | None
    """natural-log probabilities, one entry a token whose text is part of `text`; None where none were asked for"""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestOutput:
    """The answer to one prompt. `text` and its neighbors are those of the first continuation, often the only one."""

    prompt: str | None
    """the text that was continued, after the chat template; None where token ids were given"""
    prompt_token_ids: Sequence[int]
    outputs: Sequence[CompletionOutput]
    """`n` continuations"""
    usage: Usage
    ttft_s: float
    """seconds from the start of the call, or from when it was the prompt's turn, to the first token"""
    duration_s: float
    """seconds from there to the last token"""

    @property
    def text(self) -> str:
        """The first continuation's text."""
        return self.outputs[0].text

    @property
    def token_ids(self) -> Sequence[int]:
        """The first continuation's tokens."""
        return self.outputs[0].token_ids

    @property
    def finish_reason(self) -> str | None:
        """Why the first continuation ended."""
        return self.outputs[0].finish_reason

    @property
    def logprobs(self) -> Sequence[PositionLogprobs] | None:
        """The first continuation's log-probabilities."""
        return self.outputs[0].logprobs
