"""The interface of the endpoints' answer forms, and the parts that forms share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from starlette.types import Scope

from shoal.generation.generation import Usage
from shoal.generation.output.choice import ChoiceDelta, FinishedChoice
from shoal.protocol.language_messages import TokenLogprobs
from shoal.server.http.request_log import add_fields
from shoal.server.openai.errors import ApiError

LOWEST_LOGPROB = -9999.0
"""Stands for minus infinity, which JSON does not have. Source: OpenAI API reference, `logprob` of very unlikely
tokens."""


class Form(Protocol):
    """The answers to one call in the JSON of one endpoint. Streamed pieces are whole server-sent events."""

    def opening(self, num_choices: int) -> bytes:
        """Events before the first token."""
        ...

    def event(self, delta: ChoiceDelta) -> bytes:
        """Events for what a turn added to one choice."""
        ...

    def closing(self, usage: Usage) -> bytes:
        """Events after the last token."""
        ...

    def failure(self, error: ApiError) -> bytes:
        """Events that end a stream after an error."""
        ...

    def answer(self, choices: Sequence[FinishedChoice], usage: Usage) -> bytes:
        """The body of an answer in one piece."""
        ...


DONE_EVENT = b"data: [DONE]\n\n"


def event_of(body: bytes) -> bytes:
    """An answer of its own as the event of a stream."""
    return b"data: " + body + b"\n\n"


def failure_event(body: bytes) -> bytes:
    """The events with which a stream ends after an error. `body`: the error as an answer of its own."""
    return event_of(body) + DONE_EVENT


def usage_fields(usage: Usage) -> dict[str, object]:
    """OpenAI's `usage` object."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }


def note_usage(scope: Scope, usage: Usage) -> None:
    """Add token counts to the call's line in the log."""
    add_fields(scope, prompt_tokens=usage.prompt_tokens, completion_tokens=usage.completion_tokens)


def finite(logprob: float) -> float:
    """The value in a form that JSON has."""
    return max(logprob, LOWEST_LOGPROB)


def token_name(token: bytes) -> str:
    """A token's text; for a token that is not a whole text, its bytes in a form that keeps them distinct.

    Source: OpenAI API, `tokens` of completions: `bytes:\xf0\x9f`.
    """
    try:
        return token.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in token)


def top_pairs(logprobs: TokenLogprobs) -> list[tuple[int, float]]:
    """The most likely tokens and their log-probabilities, most likely first."""
    return [(token_id, finite(value)) for token_id, value in zip(logprobs.top_ids, logprobs.top_logprobs, strict=True)]
