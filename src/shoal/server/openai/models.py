"""Names of models that requests may use, the model's own and those of its adapters, and the list of them."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from shoal.core.sequences.request import NO_ADAPTER
from shoal.server.openai.errors import ApiError, unknown_model


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedModel:
    """A model that a request may ask for."""

    name: str
    adapter: int = NO_ADAPTER
    """Number of the adapter; NO_ADAPTER: the model itself."""
    parent: str | None = None
    """Name of the model that an adapter belongs to."""


class ModelNames:
    """The names of one server's models."""

    def __init__(self, model: str, adapters: Sequence[str] = ()) -> None:
        """`adapters`: in the order of their numbers."""
        base = NamedModel(name=model)
        others = [NamedModel(name=name, adapter=number, parent=model) for number, name in enumerate(adapters)]
        self.all: tuple[NamedModel, ...] = (base, *others)
        """All names, the model itself first."""

    @property
    def base(self) -> NamedModel:
        """The name of the model itself, without an adapter."""
        return self.all[0]

    def find(self, name: str | None, *, suffix: str = "") -> NamedModel:
        """The model that a request names; None: the model itself.

        Args:
            name: as the client gives it.
            suffix: may be present or missing at the end of a name.

        Raises:
            ApiError: 404, there is no such model.
        """
        if name is None:
            return self.base
        found = self._named(name, suffix)
        if not found:
            raise unknown_model(name)
        return found[0]

    def has(self, name: str, *, suffix: str = "") -> bool:
        """Whether there is a model of this name, see `find`."""
        return bool(self._named(name, suffix))

    def _named(self, name: str, suffix: str) -> list[NamedModel]:
        return [one for one in self.all if one.name.removesuffix(suffix) == name.removesuffix(suffix)]


class ModelsApi:
    """Handlers of /v1/models."""

    def __init__(self, names: ModelNames, max_context: int) -> None:
        self._names, self._max_context = names, max_context
        self._created_s = int(time.time())

    def routes(self) -> list[Route]:
        """For the app's router."""
        return [
            *either_slash("/v1/models", self.models, "GET"),
            Route("/v1/models/{name:path}", self.model, methods=["GET"]),
        ]

    async def models(self, request: Request) -> Response:
        """GET /v1/models"""
        return JSONResponse(model_list([self._card(model) for model in self._names.all]))

    async def model(self, request: Request) -> Response:
        """GET /v1/models/{name}"""
        return JSONResponse(self._card(self._names.find(request.path_params["name"])))

    def _card(self, model: NamedModel) -> dict[str, object]:
        return {
            **model_card(model.name, self._created_s),
            "root": self._names.base.name,
            "parent": model.parent,
            "max_model_len": self._max_context,
            "max_input_tokens": self._max_context,
        }


def model_card(name: str, created_s: int) -> dict[str, object]:
    """A model in the list, with what OpenAI's and Anthropic's clients expect: the names of their fields differ.

    Sources: OpenAI API reference, "The model object"; Anthropic API reference, "Get a Model".

    Args:
        name: of the model.
        created_s: when its server started, in seconds since 1970.
    """
    return {
        "id": name,
        "object": "model",
        "created": created_s,
        "owned_by": "shoal",
        "type": "model",
        "display_name": name,
        "created_at": datetime.fromtimestamp(created_s, UTC).isoformat().replace("+00:00", "Z"),
        "lifecycle": "active",
    }


def model_list(cards: Sequence[Mapping[str, object]]) -> dict[str, object]:
    """All models as one page, for clients of both dialects. Source: Anthropic API reference, "List Models"."""
    ends = {"first_id": cards[0]["id"], "last_id": cards[-1]["id"]}
    return {"object": "list", "data": cards, "has_more": False, **ends}


def either_slash(path: str, handler: Callable[[Request], Awaitable[Response]], method: str) -> list[Route]:
    """Routes with and without a slash at the end, which some clients add. No redirects, which POSTs would not
    follow."""
    return [Route(path + end, handler, methods=[method]) for end in ("", "/")]


def refusing(paths: tuple[str, ...], message: str) -> list[Route]:
    """Routes of models of another kind, which say what this model is for."""

    async def refuse(request: Request) -> Response:
        raise ApiError(400, message, param="model", code="wrong_kind_of_model")

    return [route for path in paths for route in either_slash(path, refuse, "POST")]
