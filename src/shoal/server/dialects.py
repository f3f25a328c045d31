"""The paths of all dialects of language models, and the form in which each reports errors."""

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
"""Paths whose requests are counted, and refused while the server drains."""
_FORMS = {MESSAGES_PATH: answer_message_exception, API_PATH: answer_api_exception}
"""Error handlers by the beginning of the path; other paths use OpenAI's form."""


async def answer_in_dialect(request: Request, error: Exception) -> Response:
    """Starlette's exception handler, which uses the form of the path's dialect."""
    path = request.url.path
    answer = next((one for prefix, one in _FORMS.items() if path.startswith(prefix)), answer_exception)
    return await answer(request, error)
