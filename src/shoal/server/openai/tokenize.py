"""/tokenize and /detokenize, as in vLLM's server."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import Field, model_validator
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from shoal.errors import InvalidRequest
from shoal.server.openai.answerer import Answerer
from shoal.server.openai.body.api_schema import ApiSchema
from shoal.server.openai.body.chat_body import MAX_MESSAGES, ChatBody, ChatMessage
from shoal.server.openai.body.tool_schemas import MAX_TOOLS, Tool
from shoal.server.openai.chat import body_prompt
from shoal.server.openai.completions import check_ids
from shoal.server.openai.models import ModelNames

TOKENIZE_PATHS = ("/tokenize", "/detokenize")


class TokenizeBody(ApiSchema):
    """A text or a conversation."""

    neutral: ClassVar[Mapping[str, tuple[object, ...]]] = {
        "chat_template": (),
        "continue_final_message": (False,),
        "mm_processor_kwargs": ({},),
    }

    model: str | None = None
    prompt: str | None = None
    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=MAX_MESSAGES)] | None = None
    tools: Annotated[list[Tool], Field(max_length=MAX_TOOLS)] | None = None
    add_generation_prompt: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    add_special_tokens: bool | None = None
    return_token_strs: bool | None = None

    @model_validator(mode="after")
    def _check_one(self) -> TokenizeBody:
        if (self.prompt is None) == (self.messages is None):
            raise InvalidRequest("give either `prompt` or `messages`", param="prompt")
        if self.messages is not None and self.add_special_tokens:
            raise InvalidRequest(
                "`messages` already have the special tokens of the chat template: leave out `add_special_tokens`",
                param="add_special_tokens",
            )
        return self

    def chat_body(self) -> ChatBody:
        """The conversation as the body of a chat completion."""
        told = {} if self.add_generation_prompt is None else {"add_generation_prompt": self.add_generation_prompt}
        variables = {**(self.chat_template_kwargs or {}), **told}
        return ChatBody.model_validate(
            {"messages": self.messages, "tools": self.tools, "chat_template_kwargs": variables}
        )


class DetokenizeBody(ApiSchema):
    """POST /detokenize."""

    model: str | None = None
    tokens: list[int]


class TokenizeApi:
    """Handlers of both paths."""

    def __init__(self, answerer: Answerer, names: ModelNames) -> None:
        self._answerer = answerer
        self._data_plane = answerer.data_plane
        self._names = names

    def routes(self) -> list[Route]:
        """For the app's router."""
        tokenize, detokenize = TOKENIZE_PATHS
        return [
            Route(tokenize, self.tokenize, methods=["POST"]),
            Route(detokenize, self.detokenize, methods=["POST"]),
        ]

    async def tokenize(self, request: Request) -> Response:
        """POST /tokenize"""
        body = await self._answerer.read(request, TokenizeBody)
        self._names.find(body.model)
        if body.messages is not None:
            token_ids = (await body_prompt(body.chat_body(), self._data_plane)).ids
        else:
            (token_ids,) = await self._data_plane.prompts.encode(
                [body.prompt or ""], add_special=body.add_special_tokens is not False
            )
        names = [self._data_plane.tokenizer.token_bytes(token_id).decode(errors="replace") for token_id in token_ids]
        return JSONResponse(
            {
                "count": len(token_ids),
                "max_model_len": self._data_plane.max_context,
                "tokens": list(token_ids),
                "token_strs": names if body.return_token_strs else None,
            }
        )

    async def detokenize(self, request: Request) -> Response:
        """POST /detokenize"""
        body = await self._answerer.read(request, DetokenizeBody)
        self._names.find(body.model)
        check_ids(tuple(body.tokens), self._data_plane, "tokens")
        return JSONResponse({"prompt": self._data_plane.tokenizer.decode(body.tokens)})
