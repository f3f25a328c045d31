"""gpt-oss's messages, each of which has a channel. Source: OpenAI, "Harmony response format"."""

from __future__ import annotations

from shoal.model.text.answer.answer import Answer, Schemas
from shoal.model.text.answer.feed import EndOfText, Feed, Reading

_HEADER_END = "<|message|>"
_ENDS = ("<|end|>", "<|call|>", "<|return|>")


def harmony(feed: Feed, answer: Answer, schemas: Schemas) -> Reading[None]:
    """`analysis` is reasoning, `final` and `commentary` are text, and a message to `functions.NAME` is a call.

    Implements `Reader`. An answer without any header is text.
    """
    marker: str | None = _ENDS[0]
    while marker is not None:
        try:
            header = yield from feed.read_until((_HEADER_END,))
        except EndOfText:
            rest = feed.rest()
            answer.content("" if "<|" in rest else rest)
            return
        _, _, recipient = header.partition("to=functions.")
        if recipient:
            answer.start(recipient.split()[0].partition("<")[0])
        is_analysis = header.rpartition("<|channel|>")[2].startswith("analysis")
        emit = answer.arguments if recipient else answer.reasoning if is_analysis else answer.content
        marker = yield from feed.pass_until(_ENDS, emit)
