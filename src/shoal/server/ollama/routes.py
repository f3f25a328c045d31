"""Ollama's endpoints over the same data plane: /api/*."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from shoal.errors import InvalidRequest
from shoal.generation.generation import GenerationSpec
from shoal.server.http.health.probes import server_version
from shoal.server.ollama.card import ModelCard
from shoal.server.ollama.description import PullBody, ShowBody, pulled
from shoal.server.ollama.form import OllamaForm, Place, in_message, in_response
from shoal.server.ollama.schemas import ApiBody, ApiChatBody, ApiGenerateBody
from shoal.server.openai.answerer import Answerer
from shoal.server.openai.answers import AnswerForms, AnswerReading
from shoal.server.openai.chat import chat_specs
from shoal.server.openai.completions import completion_spec, prompt_tokens
from shoal.server.openai.errors import ApiError
from shoal.server.openai.models import ModelNames, NamedModel

API_PATH = "/api/"
_MANAGED = ("push", "create", "copy", "delete", "blobs/{digest}")
"""Endpoints that manage the models of an Ollama server."""

Body = TypeVar("Body", bound=ApiBody)


class OllamaApi:
    """Handlers of /api/*."""

    def __init__(self, answerer: Answerer, names: ModelNames, forms: AnswerForms, card: ModelCard) -> None:
        self._answerer = answerer
        self._data_plane = answerer.data_plane
        self._names = names
        self._forms = forms
        self._card = card

    def routes(self) -> list[Route]:
        """For the app's router."""
        return [
            Route("/api/chat", self.chat, methods=["POST"]),
            Route("/api/generate", self.generate, methods=["POST"]),
            Route("/api/tags", self.tags, methods=["GET"]),
            Route("/api/ps", self.running, methods=["GET"]),
            Route("/api/show", self.show, methods=["POST"]),
            Route("/api/version", self.version, methods=["GET"]),
            Route("/api/pull", self.pull, methods=["POST"]),
            *(Route(API_PATH + path, self.manage, methods=["POST", "DELETE", "HEAD"]) for path in _MANAGED),
        ]

    async def chat(self, request: Request) -> Response:
        """POST /api/chat"""
        body, model = await self._read(request, ApiChatBody)
        if body.is_empty:
            return self._loaded(body, model, in_message)
        specs, reading = await chat_specs(body.chat_body(), self._data_plane, self._forms)
        return await self._respond(request, body, model, specs, in_message, reading)

    async def generate(self, request: Request) -> Response:
        """POST /api/generate"""
        body, model = await self._read(request, ApiGenerateBody)
        if body.is_empty:
            return self._loaded(body, model, in_response)
        if body.is_text or not self._data_plane.tokenizer.has_chat_template:
            completion = body.completion_body()
            (prompt_ids,) = await prompt_tokens(completion.prompt, self._data_plane)
            specs = [await completion_spec(completion, prompt_ids, self._data_plane)]
            return await self._respond(request, body, model, specs, in_response, None)
        specs, reading = await chat_specs(body.chat_body(), self._data_plane, self._forms)
        return await self._respond(request, body, model, specs, in_response, reading)

    async def tags(self, request: Request) -> Response:
        """GET /api/tags"""
        return JSONResponse({"models": [self._card.listed(model.name, model.parent) for model in self._names.all]})

    async def running(self, request: Request) -> Response:
        """GET /api/ps"""
        context = self._data_plane.max_context
        cards = [self._card.running(model.name, model.parent, max_context=context) for model in self._names.all]
        return JSONResponse({"models": cards})

    async def show(self, request: Request) -> Response:
        """POST /api/show"""
        body = await self._answerer.read(request, ShowBody)
        model = self._find(body.named)
        family = self._card.family
        tokenizer = self._data_plane.tokenizer
        capabilities = ["completion", *(["tools"] if tokenizer.has_chat_template else [])]
        if self._forms.has_reasoning:
            capabilities.append("thinking")
        return JSONResponse(
            {
                "modified_at": self._card.modified_at(),
                "template": tokenizer.template_source,
                "modelfile": "",
                "parameters": "",
                "details": self._card.details(model.parent),
                "model_info": {
                    "general.architecture": family,
                    f"{family}.context_length": self._data_plane.max_context,
                    f"{family}.vocab_size": tokenizer.vocab_size,
                },
                "capabilities": capabilities,
            }
        )

    async def version(self, request: Request) -> Response:
        """GET /api/version"""
        return JSONResponse({"version": server_version()})

    async def pull(self, request: Request) -> Response:
        """POST /api/pull, which has nothing to do for a model that is served."""
        body = await self._answerer.read(request, PullBody)
        if self._names.has(body.named, suffix=":latest"):
            return pulled(body)
        return await self.manage(request)

    async def manage(self, request: Request) -> Response:
        """Refuse other endpoints of Ollama."""
        raise ApiError(
            501, f"{request.url.path} is not available: this server only has the models that it was started with"
        )

    async def _read(self, request: Request, schema: type[Body]) -> tuple[Body, NamedModel]:
        body = await self._answerer.read(request, schema)
        model = self._find(body.model)
        body.check_context(self._data_plane.max_context)
        return body, model

    def _find(self, name: str) -> NamedModel:
        return self._names.find(name, suffix=":latest")

    def _loaded(self, body: ApiBody, model: NamedModel, place: Place) -> Response:
        """The answer to a request that only loads the model, or asks to unload it."""
        if body.keep_alive in (0, "0", "0s"):
            raise InvalidRequest("the model stays loaded while the server runs", param="keep_alive")
        return Response(self._form(model, place, None).empty("load"), media_type="application/json")

    def _form(self, model: NamedModel, place: Place, reading: AnswerReading | None) -> OllamaForm:
        return OllamaForm(model.name, place, reading=reading, token_bytes=self._data_plane.tokenizer.token_bytes)

    async def _respond(
        self,
        request: Request,
        body: ApiBody,
        model: NamedModel,
        specs: Sequence[GenerationSpec],
        place: Place,
        reading: AnswerReading | None,
    ) -> Response:
        form = self._form(model, place, reading)
        return await self._answerer.respond(
            request, specs, form, streams=body.streams, framing=form.framing, adapter=model.adapter
        )
