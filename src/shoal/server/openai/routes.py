"""The OpenAI endpoints over one data plane: read, check, generate, answer."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from shoal.generation.choice import FinishedChoice
from shoal.generation.data_plane import DataPlane
from shoal.generation.generation import GenerationSpec
from shoal.server.bodies.bodies import RequestBodies
from shoal.server.bodies.json_bounds import JsonBounds
from shoal.server.http.disconnect import ClientGone, run_until_disconnect
from shoal.server.openai.answers import AnswerForms
from shoal.server.openai.chat import ChatForm, chat_specs
from shoal.server.openai.completions import CompletionForm, completion_specs
from shoal.server.openai.errors import unknown_model
from shoal.server.openai.form import Form
from shoal.server.openai.schemas import ChatBody, CompletionBody, GenerationBody
from shoal.server.openai.sse import EventStream

Body = TypeVar("Body", bound=GenerationBody)

JSON_BOUNDS = JsonBounds(max_items=200_000, max_groups=10_000)
"""What pydantic reads in a few hundredths of a second. Token ids are the only items of which there may be many."""


FEW_LOGPROBS = 100
"""Positions whose log-probabilities are written in the event loop: with 20 alternatives each, a hundredth of a second.
"""


class OpenAiApi:
    """Handlers of /v1/*."""

    def __init__(self, data_plane: DataPlane, model_name: str, bodies: RequestBodies, forms: AnswerForms) -> None:
        self._bodies = bodies
        self._data_plane = data_plane
        self._model_name = model_name
        self._forms = forms
        self._created_s = int(time.time())

    def routes(self) -> list[Route]:
        """For the app's router."""
        return [
            *_either_slash("/v1/chat/completions", self.chat, "POST"),
            *_either_slash("/v1/completions", self.completion, "POST"),
            *_either_slash("/v1/models", self.models, "GET"),
            Route("/v1/models/{name:path}", self.model, methods=["GET"]),
        ]

    async def chat(self, request: Request) -> Response:
        """POST /v1/chat/completions"""
        body = await self._read(request, ChatBody)
        specs, reading = await chat_specs(body, self._data_plane, self._forms)
        form = ChatForm(
            self._model_name,
            include_usage=body.include_usage,
            token_bytes=self._data_plane.tokenizer.token_bytes,
            reading=reading,
        )
        return await self._respond(request, body, specs, form)

    async def completion(self, request: Request) -> Response:
        """POST /v1/completions"""
        body = await self._read(request, CompletionBody)
        specs = await completion_specs(body, self._data_plane)
        token_bytes = self._data_plane.tokenizer.token_bytes
        form = CompletionForm(self._model_name, include_usage=body.include_usage, token_bytes=token_bytes)
        return await self._respond(request, body, specs, form)

    async def models(self, request: Request) -> Response:
        """GET /v1/models"""
        return JSONResponse({"object": "list", "data": [self._card()]})

    async def model(self, request: Request) -> Response:
        """GET /v1/models/{name}"""
        self._check_model(request.path_params["name"])
        return JSONResponse(self._card())

    async def _read(self, request: Request, schema: type[Body]) -> Body:
        async with self._bodies.read(request.scope, request.receive) as content:
            await self._bodies.check_json(content, JSON_BOUNDS)
            body = schema.model_validate_json(content)
        self._check_model(body.model)
        return body

    def _check_model(self, name: str | None) -> None:
        if name is not None and name != self._model_name:
            raise unknown_model(name)

    def _card(self) -> dict[str, object]:
        return {
            "id": self._model_name,
            "object": "model",
            "created": self._created_s,
            "owned_by": "shoal",
            "max_model_len": self._data_plane.max_context,
        }

    async def _respond(
        self, request: Request, body: GenerationBody, specs: Sequence[GenerationSpec], form: Form
    ) -> Response:
        num_choices = sum(spec.n for spec in specs)
        if body.stream:
            generation = await self._data_plane.generate(specs, body.timeout)
            return EventStream(generation, form, num_choices=num_choices, include_usage=body.include_usage)
        try:
            return await run_until_disconnect(request.receive, self._answer(specs, body.timeout, form, num_choices))
        except ClientGone:
            return Response(status_code=400)  # nobody reads it

    async def _answer(
        self, specs: Sequence[GenerationSpec], timeout_s: float | None, form: Form, num_choices: int
    ) -> Response:
        choices = [FinishedChoice(index=index) for index in range(num_choices)]
        async with await self._data_plane.generate(specs, timeout_s) as generation:
            async for deltas in generation:
                for delta in deltas:
                    choices[delta.index].add(delta)
        usage = generation.usage
        if sum(len(choice.logprobs) for choice in choices) <= FEW_LOGPROBS:
            content = form.answer(choices, usage)
        else:
            content = await self._data_plane.readers.run(lambda: form.answer(choices, usage))
        return Response(content, media_type="application/json")


def _either_slash(path: str, handler: Callable[[Request], Awaitable[Response]], method: str) -> list[Route]:
    """With and without a slash at the end, which some clients join on. Not a redirect: POSTs do not follow those."""
    return [Route(path + end, handler, methods=[method]) for end in ("", "/")]
