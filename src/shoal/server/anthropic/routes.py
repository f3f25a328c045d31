"""Anthropic's endpoints over the same data plane: /v1/messages and /v1/messages/count_tokens."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from shoal.server.anthropic.messages import MessageForm
from shoal.server.anthropic.schemas import CountBody, MessagesBody, chat_body
from shoal.server.openai.answerer import Answerer
from shoal.server.openai.answers import AnswerForms
from shoal.server.openai.chat import body_prompt, chat_specs
from shoal.server.openai.models import ModelNames

MESSAGES_PATH = "/v1/messages"


class MessagesApi:
    """Handlers of /v1/messages*."""

    def __init__(self, answerer: Answerer, names: ModelNames, forms: AnswerForms) -> None:
        self._answerer = answerer
        self._names = names
        self._forms = forms

    def routes(self) -> list[Route]:
        """For the app's router."""
        return [
            Route(MESSAGES_PATH, self.message, methods=["POST"]),
            Route(f"{MESSAGES_PATH}/count_tokens", self.count_tokens, methods=["POST"]),
        ]

    async def message(self, request: Request) -> Response:
        """POST /v1/messages"""
        body = await self._answerer.read(request, MessagesBody)
        model = self._names.find(body.model)
        specs, reading = await chat_specs(chat_body(body), self._answerer.data_plane, self._forms)
        num_prompt_tokens = len(specs[0].prompt_ids)
        is_shorter = num_prompt_tokens + body.max_tokens > self._answerer.data_plane.max_context
        form = MessageForm(model.name, num_prompt_tokens=num_prompt_tokens, reading=reading, is_shorter=is_shorter)
        return await self._answerer.respond(request, specs, form, streams=bool(body.stream), adapter=model.adapter)

    async def count_tokens(self, request: Request) -> Response:
        """POST /v1/messages/count_tokens"""
        body = await self._answerer.read(request, CountBody)
        self._names.find(body.model)
        prompt_ids = (await body_prompt(chat_body(body), self._answerer.data_plane)).ids
        return JSONResponse({"input_tokens": len(prompt_ids)})
