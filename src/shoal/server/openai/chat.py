"""/v1/chat/completions: prompts from the model's chat template, answers as messages."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Sequence

import msgspec

from shoal.errors import InvalidRequest
from shoal.generation.chat_prompts import ChatPrompt, chat_prompt, seen_pictures
from shoal.generation.data_plane import DataPlane
from shoal.generation.generation import GenerationSpec, Usage
from shoal.generation.output.choice import ChoiceDelta, FinishedChoice, PositionLogprobs
from shoal.server.openai.answers import AnswerForms, AnswerReading, offered
from shoal.server.openai.body.chat_body import ChatBody
from shoal.server.openai.chat_answer import NOTHING, ChatStream, read_message
from shoal.server.openai.errors import ApiError
from shoal.server.openai.form import DONE_EVENT, failure_event, finite, token_name, top_pairs, usage_fields
from shoal.server.openai.guides import named_guides

_json = msgspec.json.Encoder().encode


async def chat_specs(
    body: ChatBody, data_plane: DataPlane, forms: AnswerForms
) -> tuple[list[GenerationSpec], AnswerReading | None]:
    """What to generate, and how answers are read.

    Raises InvalidRequest if the conversation does not fit the model's template.
    """
    prompt = await body_prompt(body, data_plane)
    reading = forms.reading(body, prompt.text)
    guides = await named_guides(forms.constraint(body, prompt.text), body.num_choices, data_plane)
    seen = await seen_pictures(data_plane, prompt.placed)
    spec = GenerationSpec(
        prompt_ids=prompt.ids,
        max_tokens=body.output_tokens_limit,
        min_tokens=body.min_tokens or 0,
        n=body.num_choices,
        sampling=body.sampling(body.num_logprobs),
        seed=body.seed,
        stop=body.stop,
        stop_token_ids=frozenset(body.stop_token_ids or ()),
        ignore_eos=bool(body.ignore_eos),
        pictures=seen,
        guides=guides,
        shows_special=forms.shows_special and reading is not None,
    )
    return [spec], reading


async def body_prompt(body: ChatBody, data_plane: DataPlane) -> ChatPrompt:
    """The conversation as text and as tokens, with its pictures read. Raises InvalidRequest."""
    if not data_plane.tokenizer.has_chat_template:
        raise InvalidRequest("this model has no chat template: use /v1/completions", param="messages")
    messages, variables = body.template_messages(), body.template_variables()
    return await chat_prompt(data_plane, messages, body.pictures, offered(body), variables)


class ChatForm:
    """`chat.completion` and `chat.completion.chunk` objects of one call."""

    def __init__(
        self,
        model_name: str,
        *,
        include_usage: bool,
        token_bytes: Callable[[int], bytes],
        reading: AnswerReading | None = None,
    ) -> None:
        """`reading`: how answers are read; None: all of it is visible text."""
        self._fields = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": model_name}
        self._token_bytes = token_bytes
        self._reading = reading
        self._streams: dict[int, ChatStream] = {}
        """Streams of the choices, while they arrive."""
        head = _json({**self._fields, "object": "chat.completion.chunk"})[:-1]
        self._head = b"data: " + head + b',"choices":[{"index":%d,"delta":'
        self._tail = b',"usage":null}\n\n' if include_usage else b"}\n\n"
        self._includes_usage = include_usage
        self._usage_head = b"data: " + head + b',"choices":[],"usage":'

    def opening(self, num_choices: int) -> bytes:
        """The role of every choice."""
        delta = b'{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}]'
        return b"".join([self._head % index + delta + self._tail for index in range(num_choices)])

    def event(self, delta: ChoiceDelta) -> bytes:
        """A `chat.completion.chunk`, or several if the answer is read in parts."""
        if self._reading is None:
            return self._chunk(delta, b'{"content":%s}' % _json(delta.text), delta.finish_reason, delta.logprobs)
        if delta.index not in self._streams:
            self._streams[delta.index] = ChatStream(self._reading)
        pieces, finish_reason = self._streams[delta.index].push(delta.text, delta.finish_reason)
        if not pieces and (delta.finish_reason or delta.logprobs):
            pieces = [NOTHING]
        last = len(pieces) - 1
        return b"".join(
            self._chunk(
                delta,
                _json(piece),
                finish_reason if place == last else None,
                () if place else delta.logprobs,
            )
            for place, piece in enumerate(pieces)
        )

    def closing(self, usage: Usage) -> bytes:
        """A chunk with token counts and no choices, if it was asked for, and the end."""
        counts = self._usage_head + _json(usage_fields(usage)) + b"}\n\n" if self._includes_usage else b""
        return counts + DONE_EVENT

    def failure(self, error: ApiError) -> bytes:
        """See `Form.failure`."""
        return failure_event(error.body())

    def answer(self, choices: Sequence[FinishedChoice], usage: Usage) -> bytes:
        """The whole answer as a `chat.completion` object."""
        fields = {
            **self._fields,
            "object": "chat.completion",
            "choices": [self._choice(choice) for choice in choices],
            "usage": usage_fields(usage),
        }
        return _json(fields)

    def _chunk(
        self, delta: ChoiceDelta, fields: bytes, finish_reason: str | None, positions: Sequence[PositionLogprobs]
    ) -> bytes:
        logprobs = self._logprobs(positions) if positions else b"null"
        reason = b'"%s"' % finish_reason.encode() if finish_reason else b"null"
        content = b'%s,"logprobs":%s,"finish_reason":%s}]' % (fields, logprobs, reason)
        return self._head % delta.index + content + self._tail

    def _choice(self, choice: FinishedChoice) -> dict[str, object]:
        fields, finish_reason = {"content": choice.text}, choice.finish_reason
        if self._reading is not None:
            fields, finish_reason = read_message(self._reading, choice.text, choice.finish_reason)
        return {
            "index": choice.index,
            "message": {"role": "assistant", **fields, "refusal": None},
            "logprobs": msgspec.Raw(self._logprobs(choice.logprobs)) if choice.logprobs else None,
            "finish_reason": finish_reason,
        }

    def _logprobs(self, positions: Sequence[PositionLogprobs]) -> bytes:
        """Written position by position, so that a long answer never holds the interpreter for long."""
        content: list[bytes] = []
        for position in positions:
            top = [self._token(token_id, logprob) for token_id, logprob in top_pairs(position.logprobs)]
            chosen = self._token(position.token_id, finite(position.logprobs.logprob))
            content.append(_json({**chosen, "top_logprobs": top}))
        return b'{"content":[%s],"refusal":null}' % b",".join(content)

    def _token(self, token_id: int, logprob: float) -> dict[str, object]:
        token = self._token_bytes(token_id)
        return {"token": token_name(token), "logprob": logprob, "bytes": list(token)}
