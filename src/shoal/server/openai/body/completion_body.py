"""The checked body of /v1/completions."""

from __future__ import annotations

from typing import Annotated, cast

from pydantic import BeforeValidator, Field, model_validator

from shoal.errors import InvalidRequest
from shoal.server.openai.body.generation_body import INT64, MAX_CHOICES, MAX_LOGPROBS, GenerationBody, token_limit

DEFAULT_COMPLETION_TOKENS = 16
"""Source: OpenAI API reference, `max_tokens` of completions."""


def _token_limit_or_none(value: object) -> object:
    return value if value == 0 else token_limit(value)


def _prompts(value: object) -> object:
    """One or several prompts, each a string or token ids, as a tuple."""
    if isinstance(value, str):
        return (value,)
    if not isinstance(value, list) or not value:
        raise ValueError("must be a string, a list of strings, a list of token ids or a list of such lists")
    items = cast(list[object], value)
    if all(type(item) is int for item in items):
        return (tuple(items),)
    return tuple(_prompt(item) for item in items)


def _prompt(item: object) -> object:
    if isinstance(item, str):
        return item
    if isinstance(item, list) and all(type(token_id) is int for token_id in cast(list[object], item)):
        return tuple(cast(list[int], item))
    raise ValueError("must be a string, a list of strings, a list of token ids or a list of such lists")


class CompletionBody(GenerationBody):
    """POST /v1/completions."""

    endpoint = "completions"

    prompt: Annotated[tuple[str | tuple[int, ...], ...], BeforeValidator(_prompts)]
    max_tokens: Annotated[int, Field(lt=INT64), BeforeValidator(_token_limit_or_none)] | None = None
    logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    best_of: int | None = None
    suffix: str | None = None
    """Text that follows the answer, which fills the gap between the prompt and this text."""
    echo: bool | None = None
    """Whether the answer begins with the prompt, which is scored if log-probabilities are asked for."""

    @model_validator(mode="after")
    def _check_counts(self) -> CompletionBody:
        if self.best_of is not None and self.best_of != self.num_choices:
            raise InvalidRequest("`best_of` is not supported: leave it out or set it to `n`", param="best_of")
        if self.max_tokens == 0 and not self.echo:
            raise InvalidRequest(
                "`max_tokens` must be at least 1, or 0 with `echo`: leave it out for the default",
                param="max_tokens",
            )
        if self.echo and self.stream and self.logprobs is not None:
            raise InvalidRequest(
                "a stream cannot return log-probabilities of its prompt: leave out `echo`, `logprobs` or `stream`",
                "echo",
            )
        if self.suffix and self.echo:
            raise InvalidRequest("`echo` cannot be combined with `suffix`", param="echo")
        if self.num_choices * len(self.prompt) > MAX_CHOICES:
            raise InvalidRequest(
                f"`prompt` and `n` make more than {MAX_CHOICES} choices: split the call", param="prompt"
            )
        return self

    @property
    def output_tokens_limit(self) -> int:
        """Most output tokens."""
        return DEFAULT_COMPLETION_TOKENS if self.max_tokens is None else self.max_tokens
