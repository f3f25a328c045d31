"""What every dialect does with a call: read and check its body, generate, answer in its form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Scope

from shoal.core.sequences.request import NO_ADAPTER
from shoal.generation.data_plane import DataPlane
from shoal.generation.generation import GenerationSpec
from shoal.generation.output.choice import FinishedChoice
from shoal.server.bodies.bodies import RequestBodies
from shoal.server.bodies.json_bounds import JsonBounds
from shoal.server.http.disconnect import ClientGone, run_until_disconnect
from shoal.server.http.request_log import request_id_of
from shoal.server.openai.body.fields import STRICT_FIELDS
from shoal.server.openai.form import Form, note_usage
from shoal.server.openai.sse import EVENTS, EventStream, Framing

BodyT = TypeVar("BodyT", bound=BaseModel)

JSON_BOUNDS = JsonBounds(max_items=200_000, max_groups=10_000)
"""What pydantic reads in a few hundredths of a second. Only token ids may be many."""


FEW_LOGPROBS = 100
"""Positions whose log-probabilities are written in the event loop: with 20 alternatives each, that takes a hundredth of
a second."""


class Answerer:
    """Answers the calls of all dialects from one data plane."""

    def __init__(self, data_plane: DataPlane, bodies: RequestBodies, *, strict_fields: bool = False) -> None:
        """`strict_fields`: refuse unknown fields in bodies."""
        self.data_plane = data_plane
        self._bodies = bodies
        self._context = {STRICT_FIELDS: strict_fields}

    async def read(self, request: Request, schema: type[BodyT]) -> BodyT:
        """A request's body, bounded before it is read and checked. Raises ValidationError, ShoalError."""
        async with self._bodies.read(request.scope, request.receive) as content:
            await self._bodies.check_json(content, JSON_BOUNDS)
            return schema.model_validate_json(content, context=self._context)

    async def respond(
        self,
        request: Request,
        specs: Sequence[GenerationSpec],
        form: Form,
        *,
        streams: bool,
        framing: Framing = EVENTS,
        timeout_s: float | None = None,
        adapter: int = NO_ADAPTER,
    ) -> Response:
        """Generate, with an adapter if one is asked for, and answer in a form, as a stream or as a whole.

        Raises as `DataPlane.generate`.
        """
        specs = [replace(spec, adapter=adapter) for spec in specs]
        num_choices = sum(spec.n for spec in specs)
        if streams:
            generation = await self.data_plane.generate(specs, timeout_s, request_id_of(request.scope))
            return EventStream(generation, form, num_choices=num_choices, framing=framing)
        try:
            return await run_until_disconnect(
                request.receive, self._answer(request.scope, specs, timeout_s, form, num_choices)
            )
        except ClientGone:
            return Response(status_code=400)  # nobody reads it

    async def _answer(
        self, scope: Scope, specs: Sequence[GenerationSpec], timeout_s: float | None, form: Form, num_choices: int
    ) -> Response:
        choices = [FinishedChoice(index=index) for index in range(num_choices)]
        async with await self.data_plane.generate(specs, timeout_s, request_id_of(scope)) as generation:
            async for deltas in generation:
                for delta in deltas:
                    choices[delta.index].add(delta)
        usage = generation.usage
        note_usage(scope, usage)
        if sum(len(choice.logprobs) for choice in choices) <= FEW_LOGPROBS:
            content = form.answer(choices, usage)
        else:
            content = await self.data_plane.readers.run(lambda: form.answer(choices, usage))
        return Response(content, media_type="application/json")
