"""The checked fields that the bodies of /v1/chat/completions and /v1/completions share.

Fields that are not named here are checked in fields.py.
"""

from __future__ import annotations

import re
from functools import cached_property
from typing import Annotated, Any, ClassVar, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, model_validator

from shoal.errors import InvalidRequest
from shoal.protocol.language_messages import Sampling
from shoal.server.openai.body.api_schema import ApiSchema
from shoal.server.openai.body.constraints import (
    CONSTRAINT_FIELDS,
    NamedConstraint,
    check_response_format,
    find_constraint,
)
from shoal.server.openai.body.fields import (
    STREAM_OPTIONS_HARMLESS,
    STREAM_OPTIONS_NEUTRAL,
    check_fields,
    is_strict,
)

MAX_LOGPROBS = 20
"""Source: OpenAI API reference, `top_logprobs`."""
MAX_STOPS = 16
MAX_STOP_CHARS = 512
"""Longest stop sequence: OpenAI takes four and states no limit of their length; a line of text has a hundred
characters."""
MAX_STOP_TOKEN_IDS = 128
MAX_BIASES = 1024
"""A judgment: each bias is sent with every step; OpenAI takes 300."""
_TOKEN_ID = re.compile("0|[1-9][0-9]{0,8}")
"""Numbers below a billion, each in one spelling."""
MAX_CHOICES = 128
"""Source: OpenAI API reference, `n`."""
INT64 = 1 << 63
MAX_TIMEOUT_S = 86_400.0
"""A day: nobody waits longer."""


def _stops(value: object) -> object:
    stops = [value] if isinstance(value, str) else value
    if stops is None:
        return ()
    if not isinstance(stops, list) or not all(isinstance(stop, str) for stop in cast(list[object], stops)):
        raise ValueError("must be a string or a list of strings")
    if len(cast(list[str], stops)) > MAX_STOPS:
        raise ValueError(f"at most {MAX_STOPS} stop sequences")
    if any(len(stop) > MAX_STOP_CHARS for stop in cast(list[str], stops)):
        raise ValueError(f"at most {MAX_STOP_CHARS} characters in a stop sequence")
    if not all(cast(list[str], stops)):
        raise ValueError("a stop sequence is empty: leave it out")
    return tuple(cast(list[str], stops))


def token_limit(value: object) -> object:
    """A number of output tokens. Raises ValueError if it is below one."""
    if type(value) is int and value < 1:
        raise ValueError("must be at least 1: leave it out for as many as are usual")
    return value


TokenLimit = Annotated[int, Field(lt=INT64), BeforeValidator(token_limit)]


class BodySchema(BaseModel):
    """Objects whose unknown fields are checked by the object that contains them."""

    model_config = ConfigDict(strict=True, extra="allow", frozen=True, allow_inf_nan=False)


class StreamOptions(ApiSchema):
    """`stream_options` of both endpoints."""

    neutral = STREAM_OPTIONS_NEUTRAL
    harmless = STREAM_OPTIONS_HARMLESS
    prefix = "stream_options."

    include_usage: bool | None = None


class GenerationBody(BodySchema):
    """The fields of both endpoints. null means the default everywhere."""

    endpoint: ClassVar[str]

    model: str | None = None
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    stop: Annotated[tuple[str, ...], BeforeValidator(_stops)] = ()
    seed: Annotated[int, Field(ge=-INT64, lt=INT64)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1, lt=1 << 31)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=2)] | None = None
    """From vLLM"""
    repetition_window: Annotated[int, Field(ge=0, lt=1 << 31)] | None = None
    """Number of latest tokens to which the repetition penalty applies; 0: all. Not in OpenAI's API; as Ollama's
    `repeat_last_n`."""
    logit_bias: Annotated[dict[str, Annotated[float, Field(ge=-100, le=100)]], Field(max_length=MAX_BIASES)] | None = (
        None
    )
    min_tokens: Annotated[int, Field(ge=0, lt=1 << 31)] | None = None
    """From vLLM"""
    max_tokens: TokenLimit | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = None
    ignore_eos: bool | None = None
    stop_token_ids: Annotated[list[int], Field(max_length=MAX_STOP_TOKEN_IDS)] | None = None
    response_format: dict[str, Any] | None = None
    structured_outputs: dict[str, Any] | None = None
    guided_json: dict[str, Any] | str | None = None
    guided_regex: str | None = None
    guided_choice: list[str] | None = None
    guided_grammar: str | None = None
    json_schema: dict[str, Any] | None = None
    prompt_logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    """Score the prompt, with this many of the most likely tokens at each position. From vLLM."""
    grammar: str | None = None
    regex: str | None = None
    ebnf: str | None = None
    timeout: Annotated[float, Field(gt=0, le=MAX_TIMEOUT_S)] | None = None
    """Seconds within which the answer must be finished. Not in OpenAI's API, but some gateways have it."""

    @model_validator(mode="after")
    def _refuse_unimplemented(self, info: ValidationInfo) -> GenerationBody:
        check_fields(self.model_extra or {}, type(self).model_fields, self.endpoint, strict=is_strict(info))
        return self

    @model_validator(mode="after")
    def _check_constraint(self, info: ValidationInfo) -> GenerationBody:
        check_response_format(self.response_format or {}, strict=is_strict(info))
        for name in ("ignore_eos", "min_tokens"):
            if self.constraint is not None and getattr(self, name):
                raise InvalidRequest(f"`{name}` cannot be combined with a constrained output", param=name)
        return self

    @model_validator(mode="after")
    def _check_biases(self) -> GenerationBody:
        for token in self.logit_bias or ():
            if not _TOKEN_ID.fullmatch(token):
                raise InvalidRequest(f"`logit_bias` has {token[:20]!r}, which is not a token id", param="logit_bias")
        return self

    @model_validator(mode="after")
    def _check_stream_options(self) -> GenerationBody:
        """Source: OpenAI's API answers the same."""
        if self.stream_options is not None and not self.stream:
            raise InvalidRequest("`stream_options` needs `stream`: true", param="stream_options")
        return self

    @model_validator(mode="after")
    def _check_prompt_logprobs(self) -> GenerationBody:
        if self.prompt_logprobs is not None and self.stream:
            raise InvalidRequest("a stream cannot return log-probabilities of its prompt", param="prompt_logprobs")
        return self

    @cached_property
    def constraint(self) -> NamedConstraint | None:
        """The required format of the output, and the field that contains it. Raises InvalidRequest."""
        return find_constraint({name: getattr(self, name) for name in CONSTRAINT_FIELDS})

    @property
    def num_choices(self) -> int:
        """Choices for each prompt."""
        return 1 if self.n is None else self.n

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with a chunk of token counts."""
        return self.stream_options is not None and bool(self.stream_options.include_usage)

    def sampling(self, num_logprobs: int | None) -> Sampling:
        """The sampling parameters, with OpenAI's defaults for missing ones."""
        return Sampling(
            temperature=1.0 if self.temperature is None else self.temperature,
            top_p=1.0 if self.top_p is None else self.top_p,
            top_k=max(self.top_k or 0, 0),
            min_p=self.min_p or 0.0,
            presence_penalty=self.presence_penalty or 0.0,
            frequency_penalty=self.frequency_penalty or 0.0,
            repetition_penalty=self.repetition_penalty or 1.0,
            repetition_window=self.repetition_window or 0,
            logit_bias=tuple(sorted({int(token): bias for token, bias in (self.logit_bias or {}).items()}.items())),
            num_logprobs=num_logprobs,
        )
