"""OpenAI's Responses over the same data plane: /v1/responses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from shoal.server.openai.answerer import Answerer
from shoal.server.openai.answers import AnswerForms
from shoal.server.openai.chat import body_prompt, chat_specs
from shoal.server.openai.errors import ApiError
from shoal.server.openai.models import ModelNames
from shoal.server.responses.form import ResponseForm
from shoal.server.responses.items import answer_message
from shoal.server.responses.schemas import Message, ResponsesBody
from shoal.server.responses.store import ResponseStore, StoredResponse

RESPONSES_PATH = "/v1/responses"


class ResponsesApi:
    """Handlers of /v1/responses*."""

    def __init__(self, answerer: Answerer, names: ModelNames, forms: AnswerForms) -> None:
        self._answerer = answerer
        self._names = names
        self._forms = forms
        self._store = ResponseStore()

    def routes(self) -> list[Route]:
        """For the app's router."""
        return [
            Route(RESPONSES_PATH, self.create, methods=["POST"]),
            Route(f"{RESPONSES_PATH}/input_tokens", self.count_input_tokens, methods=["POST"]),
            Route(f"{RESPONSES_PATH}/{{name}}", self.get, methods=["GET"]),
            Route(f"{RESPONSES_PATH}/{{name}}", self.delete, methods=["DELETE"]),
        ]

    async def create(self, request: Request) -> Response:
        """POST /v1/responses"""
        body = await self._answerer.read(request, ResponsesBody)
        model = self._names.find(body.model)
        messages = self._conversation(body)
        specs, reading = await chat_specs(body.chat_body(messages), self._answerer.data_plane, self._forms)

        def keep(response: Mapping[str, Any]) -> None:
            if body.store is not False:
                self._keep(response, messages)

        form = ResponseForm(body, model.name, reading, keep)
        return await self._answerer.respond(request, specs, form, streams=bool(body.stream), adapter=model.adapter)

    async def count_input_tokens(self, request: Request) -> Response:
        """POST /v1/responses/input_tokens"""
        body = await self._answerer.read(request, ResponsesBody)
        self._names.find(body.model)
        prompt = await body_prompt(body.chat_body(self._conversation(body)), self._answerer.data_plane)
        return JSONResponse({"object": "response.input_tokens", "input_tokens": len(prompt.ids)})

    async def get(self, request: Request) -> Response:
        """GET /v1/responses/{id}"""
        if request.query_params.get("stream", "false") != "false":
            raise ApiError(400, "the events of an answer are not kept: leave `stream` out", param="stream")
        return JSONResponse(dict(self._find(request.path_params["name"]).response))

    async def delete(self, request: Request) -> Response:
        """DELETE /v1/responses/{id}"""
        name = request.path_params["name"]
        self._find(name)
        self._store.delete(name)
        return JSONResponse({"id": name, "object": "response", "deleted": True})

    def _conversation(self, body: ResponsesBody) -> list[Message]:
        """The messages of the whole conversation, including the stored ones."""
        if body.previous_response_id is None:
            return body.new_messages()
        return [*self._find(body.previous_response_id).messages, *body.new_messages()]

    def _find(self, response_id: str) -> StoredResponse:
        stored = self._store.get(response_id)
        if stored is None:
            raise ApiError(
                404,
                f"There is no response {response_id[:100]!r}: it never existed, or older responses had to "
                "make room for newer ones",
                param="previous_response_id",
                code="response_not_found",
            )
        return stored

    def _keep(self, response: Mapping[str, Any], messages: Sequence[Message]) -> None:
        conversation = [*messages, answer_message(response["output"])]
        self._store.put(response["id"], StoredResponse(response=response, messages=conversation))
