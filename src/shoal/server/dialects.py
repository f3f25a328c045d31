"""The paths of the dialects in which language models are asked, and the form in which each tells errors."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from shoal.server.anthropic.errors import answer_message_exception
from shoal.server.anthropic.routes import MESSAGES_PATH
from shoal.server.embeddings.routes import PATHS as EMBEDDING_PATHS
from shoal.server.ollama.errors import answer_api_exception
from shoal.server.ollama.routes import API_PATH
from shoal.server.openai.errors import answer_exception

API_PATHS = ("/v1", API_PATH, *(path for path in EMBEDDING_PATHS if not path.startswith("/v1/")))
"""Paths that are counted, and refused while the server drains."""
_FORMS = {MESSAGES_PATH: answer_message_exception, API_PATH: answer_api_exception}
"""How errors are told, by how paths begin; of all others as OpenAI does."""


async def answer_in_dialect(request: Request, error: Exception) -> Response:
    """Starlette's exception handler: in the form of the dialect that the path belongs to."""
    path = request.url.path
    answer = next((one for prefix, one in _FORMS.items() if path.startswith(prefix)), answer_exception)
    return await answer(request, error)
