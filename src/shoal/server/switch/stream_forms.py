"""The form of a stream of each API before the model's own server has answered, and how it ends after an error."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from shoal.server.anthropic.errors import failure_event as message_failure
from shoal.server.anthropic.routes import MESSAGES_PATH
from shoal.server.ollama.errors import failure_line
from shoal.server.ollama.form import in_message, in_response, line_framing
from shoal.server.ollama.routes import API_PATH
from shoal.server.openai.form import event_of, failure_event
from shoal.server.openai.sse import EVENTS, Framing
from shoal.server.responses.form import failure_of_stream
from shoal.server.responses.routes import RESPONSES_PATH
from shoal.server.speech.paths import AUDIO_PATHS


@dataclass(frozen=True, slots=True)
class StreamForm:
    """The pieces of one call's stream."""

    framing: Framing
    separator: bytes
    """Bytes after every piece, which do not occur inside one."""
    failure: Callable[[bytes, int], bytes]
    """Returns the last pieces after an error, given the body of an error answer and the number of events sent."""


_COMPLETIONS = StreamForm(EVENTS, b"\n\n", lambda body, num_events: failure_event(body))
_MESSAGES = StreamForm(EVENTS, b"\n\n", lambda body, num_events: message_failure(body))
_RESPONSES = StreamForm(EVENTS, b"\n\n", failure_of_stream)
_TRANSCRIPTS = StreamForm(EVENTS, b"\n\n", lambda body, num_events: event_of(body))
_FORMS = {
    "/v1/chat/completions": _COMPLETIONS,
    "/v1/completions": _COMPLETIONS,
    MESSAGES_PATH: _MESSAGES,
    RESPONSES_PATH: _RESPONSES,
    **dict.fromkeys(AUDIO_PATHS, _TRANSCRIPTS),
}
_PLACES = {f"{API_PATH}chat": in_message, f"{API_PATH}generate": in_response}


def stream_form(path: str, model: str, said: object) -> StreamForm | None:
    """The form of a call's stream; None: its answer comes in one piece.

    Args:
        path: of the call.
        model: that it asks for.
        said: value of `stream` in its body.
    """
    path = path.rstrip("/")
    if place := _PLACES.get(path):
        lines = StreamForm(line_framing(model, place), b"\n", lambda body, num_events: failure_line(body))
        return None if said is False else lines
    return _FORMS.get(path) if said is True else None
