"""The bodies of /v1/chat/completions and /v1/completions, checked. The only pydantic in Shoal.

Fields that are not named here are looked at in fields.py.
"""

from __future__ import annotations

import re
from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, model_validator

from shoal.errors import InvalidRequest
from shoal.generation.message_parts import Content, picture_sources, template_content
from shoal.model.vision.pixels import PictureSource
from shoal.protocol.messages import Sampling
from shoal.server.openai.body.api_schema import ApiSchema
from shoal.server.openai.body.constraints import (
    CONSTRAINT_FIELDS,
    NamedConstraint,
    check_response_format,
    find_constraint,
)
from shoal.server.openai.body.content_parts import read_content
from shoal.server.openai.body.fields import (
    MESSAGE_HARMLESS,
    MESSAGE_NEUTRAL,
    STREAM_OPTIONS_HARMLESS,
    STREAM_OPTIONS_NEUTRAL,
    check_extra,
    check_fields,
    is_strict,
)
from shoal.server.openai.body.tool_schemas import MAX_TOOLS, NamedChoice, Tool, ToolCall, ToolChoice, check_choice

MAX_LOGPROBS = 20
"""Source: OpenAI API reference, `top_logprobs`."""
MAX_STOPS = 16
MAX_STOP_CHARS = 512
"""Of one stop sequence: OpenAI takes four and says nothing of their length; a line of text has a hundred."""
MAX_STOP_TOKEN_IDS = 128
MAX_BIASES = 1024
"""A judgment: each travels with every step; OpenAI takes 300."""
_TOKEN_ID = re.compile("0|[1-9][0-9]{0,8}")
"""A billion tokens, each in one way."""
MAX_MESSAGES = 4096
"""Of a conversation: two thousand questions and answers. Several hundred fill a context of 128 thousand tokens."""
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


def _token_limit(value: object) -> object:
    if type(value) is int and value < 1:
        raise ValueError("must be at least 1: leave it out for as many as are usual")
    return value


def _token_limit_or_none(value: object) -> object:
    return value if value == 0 else _token_limit(value)


_TokenLimit = Annotated[int, Field(lt=INT64), BeforeValidator(_token_limit)]


def _content(value: object, info: ValidationInfo) -> object:
    return read_content(value, strict=is_strict(info))


def _prompts(value: object) -> object:
    """One prompt or several, each a string or token ids, as a tuple of prompts."""
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


class _Schema(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow", frozen=True, allow_inf_nan=False)


class StreamOptions(ApiSchema):
    """`stream_options` of both endpoints."""

    neutral = STREAM_OPTIONS_NEUTRAL
    harmless = STREAM_OPTIONS_HARMLESS
    prefix = "stream_options."

    include_usage: bool | None = None


class GenerationBody(_Schema):
    """What both endpoints share. null stands for the default everywhere."""

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
    """vLLM's"""
    repetition_window: Annotated[int, Field(ge=0, lt=1 << 31)] | None = None
    """of how many latest tokens; 0: all. Not OpenAI's, as Ollama's `repeat_last_n`"""
    logit_bias: Annotated[dict[str, Annotated[float, Field(ge=-100, le=100)]], Field(max_length=MAX_BIASES)] | None = (
        None
    )
    min_tokens: Annotated[int, Field(ge=0, lt=1 << 31)] | None = None
    """vLLM's"""
    max_tokens: _TokenLimit | None = None
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
    """score the prompt, with so many of the likeliest tokens at each place: vLLM's"""
    grammar: str | None = None
    regex: str | None = None
    ebnf: str | None = None
    timeout: Annotated[float, Field(gt=0, le=MAX_TIMEOUT_S)] | None = None
    """seconds in which the answer must be finished: not OpenAI's, as some gateways know it"""

    @model_validator(mode="after")
    def _refuse_unimplemented(self, info: ValidationInfo) -> GenerationBody:
        check_fields(self.model_extra or {}, type(self).model_fields, self.endpoint, strict=is_strict(info))
        return self

    @model_validator(mode="after")
    def _check_constraint(self, info: ValidationInfo) -> GenerationBody:
        check_response_format(self.response_format or {}, strict=is_strict(info))
        for name in ("ignore_eos", "min_tokens"):
            if self.constraint is not None and getattr(self, name):
                raise InvalidRequest(f"`{name}` cannot go with an output of a given form", param=name)
        return self

    @model_validator(mode="after")
    def _check_biases(self) -> GenerationBody:
        for token in self.logit_bias or ():
            if not _TOKEN_ID.fullmatch(token):
                raise InvalidRequest(f"`logit_bias` has {token[:20]!r}, which is no token's id", param="logit_bias")
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
            raise InvalidRequest("a stream has no log-probabilities of its prompt", param="prompt_logprobs")
        return self

    @cached_property
    def constraint(self) -> NamedConstraint | None:
        """What the output must look like, and the field that says so. Raises InvalidRequest."""
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
        """The sampling parameters, with OpenAI's defaults where the body is silent."""
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


class ChatMessage(_Schema):
    """One turn of a conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Annotated[Content, BeforeValidator(_content)] = ""
    name: str | None = None
    reasoning_content: str | None = None
    tool_calls: Annotated[list[ToolCall], Field(max_length=MAX_TOOLS)] | None = None
    tool_call_id: str | None = None

    def template_form(self) -> dict[str, Any]:
        """As chat templates take it; `developer` is OpenAI's newer word for `system`."""
        fields = self.model_dump(include={"name", "reasoning_content", "tool_call_id"}, exclude_none=True)
        fields["content"] = template_content(self.content)
        if self.tool_calls:
            fields["tool_calls"] = [call.template_form() for call in self.tool_calls]
        return {"role": "system" if self.role == "developer" else self.role, **fields}


class ChatBody(GenerationBody):
    """POST /v1/chat/completions."""

    endpoint = "chat"

    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=MAX_MESSAGES)]
    max_completion_tokens: _TokenLimit | None = None
    tools: Annotated[list[Tool], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None

    @model_validator(mode="after")
    def _check_messages(self, info: ValidationInfo) -> ChatBody:
        known, strict = ChatMessage.model_fields, is_strict(info)
        for place, message in enumerate(self.messages):
            extra, prefix = message.model_extra or {}, f"messages[{place}]."
            check_extra(extra, known, MESSAGE_NEUTRAL, MESSAGE_HARMLESS, prefix, strict=strict)
        return self

    @model_validator(mode="after")
    def _check_tools(self) -> ChatBody:
        check_choice(self.tool_choice, [tool.function.name for tool in self.tools or ()])
        if self.demands_calls and self.constraint is not None and self.constraint.field != "response_format":
            raise InvalidRequest(
                f"`{self.constraint.field}` and `tool_choice` both say what the output must look like: leave one out",
                param="tool_choice",
            )
        return self

    @model_validator(mode="after")
    def _check_logprobs(self) -> ChatBody:
        if self.top_logprobs is not None and not self.logprobs:
            raise InvalidRequest("`top_logprobs` needs `logprobs`: true", param="top_logprobs")
        return self

    @property
    def num_logprobs(self) -> int | None:
        """The number of most likely tokens to tell, as in `Sampling.num_logprobs`."""
        return (self.top_logprobs or 0) if self.logprobs else None

    @property
    def output_tokens_limit(self) -> int | None:
        """Output tokens at most; None: what the context leaves."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    @property
    def demands_calls(self) -> bool:
        """Whether the answer must call a tool."""
        return self.tool_choice not in (None, "none", "auto")

    @property
    def offered_tools(self) -> list[Tool]:
        """The tools that the answer may call."""
        if self.tool_choice == "none":
            return []
        if isinstance(self.tool_choice, NamedChoice):
            return [tool for tool in self.tools or () if tool.function.name == self.tool_choice.function.name]
        return self.tools or []

    @property
    def pictures(self) -> list[PictureSource]:
        """Where all pictures come from, in order."""
        return picture_sources([message.content for message in self.messages])

    def template_messages(self) -> list[dict[str, Any]]:
        """The conversation as chat templates take it."""
        return [message.template_form() for message in self.messages]

    def template_variables(self) -> dict[str, Any]:
        """What the model's template is told beside it."""
        effort = {} if self.reasoning_effort is None else {"reasoning_effort": self.reasoning_effort}
        return {**effort, **(self.chat_template_kwargs or {})}


DEFAULT_COMPLETION_TOKENS = 16
"""Source: OpenAI API reference, `max_tokens` of completions."""


class CompletionBody(GenerationBody):
    """POST /v1/completions."""

    endpoint = "completions"

    prompt: Annotated[tuple[str | tuple[int, ...], ...], BeforeValidator(_prompts)]
    max_tokens: Annotated[int, Field(lt=INT64), BeforeValidator(_token_limit_or_none)] | None = None
    logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    best_of: int | None = None
    suffix: str | None = None
    """what is to follow the answer: the prompt and this have a gap, which the answer fills"""
    echo: bool | None = None
    """begin the answer with the prompt, which is scored where log-probabilities are asked for"""

    @model_validator(mode="after")
    def _check_counts(self) -> CompletionBody:
        if self.best_of is not None and self.best_of != self.num_choices:
            raise InvalidRequest("`best_of` is not supported: leave it out or set it to `n`", param="best_of")
        if self.max_tokens == 0 and not self.echo:
            raise InvalidRequest(
                "`max_tokens` must be at least 1, or 0 with `echo`: leave it out for as many as are usual",
                param="max_tokens",
            )
        if self.echo and self.stream and self.logprobs is not None:
            raise InvalidRequest("a stream has no log-probabilities of its prompt: leave out one of the three", "echo")
        if self.suffix and self.echo:
            raise InvalidRequest("an answer between a prompt and a `suffix` has no echo of the prompt", param="echo")
        if self.num_choices * len(self.prompt) > MAX_CHOICES:
            raise InvalidRequest(
                f"`prompt` and `n` make more than {MAX_CHOICES} choices: split the call", param="prompt"
            )
        return self

    @property
    def output_tokens_limit(self) -> int:
        """Output tokens at most."""
        return DEFAULT_COMPLETION_TOKENS if self.max_tokens is None else self.max_tokens
