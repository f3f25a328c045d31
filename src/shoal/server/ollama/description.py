"""Bodies of the calls in which Ollama's clients ask for descriptions of models, and the answer to a pull."""

from __future__ import annotations

import msgspec
from pydantic import BaseModel
from starlette.responses import Response


class ShowBody(BaseModel):
    """POST /api/show."""

    model: str | None = None
    name: str | None = None
    """What older clients send instead of `model`."""
    verbose: bool | None = None

    @property
    def named(self) -> str:
        """The model that is asked for."""
        return self.model or self.name or ""


class PullBody(ShowBody):
    """POST /api/pull."""

    insecure: bool | None = None
    stream: bool | None = None


def pulled(body: PullBody) -> Response:
    """The answer to a pull of a model that is there: it is complete. Source: Ollama API reference, "Pull a Model"."""
    kind = "application/json" if body.stream is False else "application/x-ndjson"
    return Response(msgspec.json.encode({"status": "success"}) + b"\n", media_type=kind)
