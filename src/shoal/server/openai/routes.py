"""The OpenAI endpoints over one data plane: read, check, generate, answer."""

from __future__ import annotations

from typing import TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from shoal.server.openai.answerer import Answerer
from shoal.server.openai.answers import AnswerForms
from shoal.server.openai.body.chat_body import ChatBody
from shoal.server.openai.body.completion_body import CompletionBody
from shoal.server.openai.body.generation_body import GenerationBody
from shoal.server.openai.chat import ChatForm, chat_specs
from shoal.server.openai.completions import CompletionForm, completion_spec, prompt_tokens
from shoal.server.openai.form import Form
from shoal.server.openai.models import ModelNames, ModelsApi, NamedModel, either_slash
from shoal.server.openai.prompts.echo import EchoForm, echoed_specs
from shoal.server.openai.prompts.fill_in import filling
from shoal.server.openai.prompts.scores import ScoredForm

Body = TypeVar("Body", bound=GenerationBody)


class OpenAiApi:
    """Handlers of /v1/*."""

    def __init__(self, answerer: Answerer, names: ModelNames, forms: AnswerForms) -> None:
        self._answerer = answerer
        self._data_plane = answerer.data_plane
        self._names = names
        self._forms = forms

    def routes(self) -> list[Route]:
        """For the app's router."""
        return [
            *either_slash("/v1/chat/completions", self.chat, "POST"),
            *either_slash("/v1/completions", self.completion, "POST"),
            *ModelsApi(self._names, self._data_plane.max_context).routes(),
        ]

    async def chat(self, request: Request) -> Response:
        """POST /v1/chat/completions"""
        body, model = await self._read(request, ChatBody)
        specs, reading = await chat_specs(body, self._data_plane, self._forms)
        token_bytes = self._data_plane.tokenizer.token_bytes
        form: Form = ChatForm(model.name, include_usage=body.include_usage, token_bytes=token_bytes, reading=reading)
        if body.prompt_logprobs is not None:
            prompts = [spec.prompt_ids for spec in specs]
            specs, form = ScoredForm.of(form, specs, prompts, body.prompt_logprobs, token_bytes, has_one=True)
        return await self._answerer.respond(
            request, specs, form, streams=bool(body.stream), timeout_s=body.timeout, adapter=model.adapter
        )

    async def completion(self, request: Request) -> Response:
        """POST /v1/completions"""
        body, model = await self._read(request, CompletionBody)
        token_bytes = self._data_plane.tokenizer.token_bytes
        if body.echo:
            specs, prompts = await echoed_specs(body, self._data_plane)
            form: Form = EchoForm(
                model.name,
                prompts,
                include_usage=body.include_usage,
                token_bytes=token_bytes,
                has_logprobs=body.logprobs is not None,
            )
            prompt_ids = [prompt.token_ids for prompt in prompts]
        else:
            prompt_ids = await prompt_tokens(body.prompt, self._data_plane)
            specs = [await completion_spec(body, one, self._data_plane) for one in prompt_ids]
            if body.suffix:
                specs = [await filling(spec, body.suffix, self._data_plane) for spec in specs]
                prompt_ids = [spec.prompt_ids for spec in specs]
            form = CompletionForm(model.name, include_usage=body.include_usage, token_bytes=token_bytes)
        if body.prompt_logprobs is not None:
            specs, form = ScoredForm.of(form, specs, prompt_ids, body.prompt_logprobs, token_bytes)
        return await self._answerer.respond(
            request, specs, form, streams=bool(body.stream), timeout_s=body.timeout, adapter=model.adapter
        )

    async def _read(self, request: Request, schema: type[Body]) -> tuple[Body, NamedModel]:
        body = await self._answerer.read(request, schema)
        return body, self._names.find(body.model)
