"""The checked bodies of /api/chat and /api/generate, and their conversion to OpenAI's.

Source: Ollama's API reference and its Modelfile reference (`options`). Options that would change the answer but are not
implemented are refused; options for loading a model are ignored, because it is loaded already.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from shoal.errors import InvalidRequest
from shoal.server.openai.body.api_schema import ApiSchema
from shoal.server.openai.body.chat_body import MAX_MESSAGES, ChatBody
from shoal.server.openai.body.completion_body import CompletionBody
from shoal.server.openai.body.generation_body import MAX_LOGPROBS
from shoal.server.openai.body.tool_schemas import MAX_TOOLS

_HARMLESS_OPTIONS = frozenset(
    {
        "embedding_only",
        "f16_kv",
        "logits_all",
        "low_vram",
        "main_gpu",
        "mirostat_eta",
        "mirostat_tau",
        "num_batch",
        "num_gpu",
        "num_keep",
        "num_thread",
        "numa",
        "penalize_newline",
        "use_mlock",
        "use_mmap",
        "vocab_only",
    }
)
"""Options for loading a model, and options that only matter together with refused ones."""
_NEUTRAL_OPTIONS: dict[str, tuple[object, ...]] = {
    "mirostat": (0,),
    "tfs_z": (1,),
    "typical_p": (1,),
}
_SAMPLED = {"temperature": 0.8, "top_k": 40, "top_p": 0.9}
"""Defaults of options. Source: Ollama's Modelfile reference."""
_REPEAT_LAST_N = 64
"""Source: the same."""
_TRANSLATED = {"num_ctx", "num_predict", "repeat_penalty", "repeat_last_n"}
"""Options with other names in OpenAI's bodies, or without an equivalent."""


class Options(ApiSchema):
    """`options` of a request: how tokens are sampled."""

    neutral = _NEUTRAL_OPTIONS
    harmless = _HARMLESS_OPTIONS
    prefix = "options."

    num_ctx: Annotated[int, Field(ge=1)] | None = None
    num_predict: Annotated[int, Field(ge=-2)] | None = None
    """Most output tokens; below 0: what the context leaves."""
    seed: int | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repeat_penalty: Annotated[float, Field(gt=0, le=2)] | None = None
    repeat_last_n: Annotated[int, Field(ge=-1, lt=1 << 31)] | None = None
    """Number of latest tokens to which `repeat_penalty` applies; 0: none, -1: all, 64 by default."""
    stop: str | list[str] | None = None

    def fields(self) -> dict[str, Any]:
        """The options as fields of OpenAI's bodies."""
        own = self.model_dump(exclude_none=True, include=set(Options.model_fields) - _TRANSLATED)
        limit = {} if self.num_predict is None or self.num_predict < 0 else {"max_tokens": self.num_predict}
        return {**_SAMPLED, **own, **limit, **self._repetition()}

    def _repetition(self) -> dict[str, Any]:
        last = _REPEAT_LAST_N if self.repeat_last_n is None else self.repeat_last_n
        if self.repeat_penalty is None or last == 0:
            return {}
        return {"repetition_penalty": self.repeat_penalty, "repetition_window": max(last, 0)}


class ApiFunction(ApiSchema):
    """The function of a call."""

    harmless = frozenset({"index"})

    name: str
    arguments: dict[str, Any] = Field(default_factory=dict[str, Any])


class ApiCall(ApiSchema):
    """A call in an earlier answer."""

    harmless = frozenset({"id", "type"})

    function: ApiFunction


MAX_IMAGES = 64
"""Most pictures of a message; the limit for a request is checked elsewhere."""


def _content(text: str, images: list[str] | None) -> str | list[dict[str, Any]]:
    """A text, or a text after pictures, in OpenAI's form."""
    if not images:
        return text
    urls = [{"type": "image_url", "image_url": {"url": f"data:image/png;base64,{image}"}} for image in images]
    return [*urls, {"type": "text", "text": text}]


class ApiMessage(ApiSchema):
    """One turn of the conversation."""

    harmless = frozenset({"tool_call_id"})
    prefix = "messages."

    role: Literal["system", "user", "assistant", "tool"]
    content: str | None = None
    images: Annotated[list[str], Field(max_length=MAX_IMAGES)] | None = None
    """Picture files in base64, which come before the text."""
    thinking: str | None = None
    tool_calls: Annotated[list[ApiCall], Field(max_length=MAX_TOOLS)] | None = None
    tool_name: str | None = None

    def chat_fields(self) -> dict[str, Any]:
        """The message as fields of OpenAI's messages."""
        fields: dict[str, Any] = {"role": self.role, "content": _content(self.content or "", self.images)}
        if self.thinking:
            fields["reasoning_content"] = self.thinking
        if self.tool_name:
            fields["name"] = self.tool_name
        if self.tool_calls:
            called = [call.function.model_dump(include={"name", "arguments"}) for call in self.tool_calls]
            fields["tool_calls"] = [{"type": "function", "function": function} for function in called]
        return fields


class ApiBody(ApiSchema):
    """The fields of both endpoints. null means the default everywhere."""

    model: Annotated[str, Field(min_length=1)]
    stream: bool | None = None
    format: str | dict[str, Any] | None = None
    options: Options | None = None
    keep_alive: float | str | None = None
    """Ignored, because models stay loaded."""
    think: bool | Literal["low", "medium", "high"] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None

    @property
    def streams(self) -> bool:
        """Whether the answer is streamed, which is the default."""
        return self.stream is not False

    @property
    def _own_options(self) -> Options:
        return self.options or Options()

    def check_context(self, max_context: int) -> None:
        """Raises InvalidRequest if more context is asked for than there is."""
        num_ctx = self._own_options.num_ctx
        if num_ctx is not None and num_ctx > max_context:
            raise InvalidRequest(
                f"this model has {max_context} tokens of context on this server", param="options.num_ctx"
            )

    def _shared_fields(self) -> dict[str, Any]:
        return {**self._own_options.fields(), "response_format": self._response_format()}

    def _response_format(self) -> dict[str, Any] | None:
        match self.format:
            case None | "":
                return None
            case "json":
                return {"type": "json_object"}
            case dict() as schema:
                return {"type": "json_schema", "json_schema": {"name": "output", "schema": schema}}
            case _:
                raise InvalidRequest('must be "json" or a JSON schema', param="format")

    def _chat_body(self, fields: dict[str, Any]) -> ChatBody:
        """Raises InvalidRequest, ValidationError."""
        fields = {**self._shared_fields(), **fields, "logprobs": self.logprobs, "top_logprobs": self.top_logprobs}
        if isinstance(self.think, bool):
            fields["chat_template_kwargs"] = {"enable_thinking": self.think}
        elif self.think is not None:
            fields["reasoning_effort"] = self.think
        return ChatBody.model_validate({name: value for name, value in fields.items() if value is not None})


class ApiChatBody(ApiBody):
    """POST /api/chat."""

    messages: Annotated[list[ApiMessage], Field(max_length=MAX_MESSAGES)] = Field(default_factory=list[ApiMessage])
    tools: Annotated[list[dict[str, Any]], Field(max_length=MAX_TOOLS)] | None = None

    @property
    def is_empty(self) -> bool:
        """Whether the request only asks to load the model."""
        return not self.messages

    def chat_body(self) -> ChatBody:
        """The request in OpenAI's form. Raises InvalidRequest, ValidationError."""
        return self._chat_body(
            {"messages": [message.chat_fields() for message in self.messages], "tools": self.tools or None}
        )


class ApiGenerateBody(ApiBody):
    """POST /api/generate."""

    neutral: ClassVar[Mapping[str, tuple[object, ...]]] = {
        "context": ([],),
        "height": (0,),
        "steps": (0,),
        "template": ("",),
        "width": (0,),
    }

    prompt: str = ""
    images: Annotated[list[str], Field(max_length=MAX_IMAGES)] | None = None
    suffix: str | None = None
    system: str | None = None
    raw: bool | None = None

    @property
    def is_empty(self) -> bool:
        """Whether the request only asks to load the model."""
        return not self.prompt

    @model_validator(mode="after")
    def _check_images(self) -> ApiGenerateBody:
        if self.images and self.is_text:
            raise InvalidRequest("images are part of a question: leave out `raw` and `suffix`", param="images")
        return self

    @property
    def is_text(self) -> bool:
        """Whether the prompt is a text to be continued, rather than a question."""
        return bool(self.raw or self.suffix)

    def chat_body(self) -> ChatBody:
        """The request in OpenAI's form, with the prompt as the user's question. Raises InvalidRequest,
        ValidationError."""
        system = [{"role": "system", "content": self.system}] if self.system else []
        return self._chat_body({"messages": [*system, {"role": "user", "content": _content(self.prompt, self.images)}]})

    def completion_body(self) -> CompletionBody:
        """The request in OpenAI's form, with the prompt as it is. Raises InvalidRequest, ValidationError."""
        if self.system:
            raise InvalidRequest("a raw prompt has no system message: leave out `system`", param="system")
        num_logprobs = (self.top_logprobs or 0) if self.logprobs else None
        fields = {
            **self._shared_fields(),
            "prompt": self.prompt,
            "suffix": self.suffix or None,
            "logprobs": num_logprobs,
        }
        return CompletionBody.model_validate({name: value for name, value in fields.items() if value is not None})
