"""/v1/chat/completions: the prompt through the model's chat template, answers as messages."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Sequence

import msgspec

from shoal.errors import InvalidRequest
from shoal.generation.choice import ChoiceDelta, FinishedChoice, PositionLogprobs
from shoal.generation.data_plane import DataPlane
from shoal.generation.generation import GenerationSpec, Usage
from shoal.server.openai.form import finite, token_name, top_pairs, usage_fields
from shoal.server.openai.guides import body_guides
from shoal.server.openai.schemas import ChatBody

_json = msgspec.json.Encoder().encode


async def chat_specs(body: ChatBody, data_plane: DataPlane) -> list[GenerationSpec]:
    """What to generate. Raises InvalidRequest where the conversation does not fit the model's template."""
    tokenizer = data_plane.tokenizer
    if not tokenizer.has_chat_template:
        raise InvalidRequest("this model has no chat template: use /v1/completions", param="messages")
    prompt = await data_plane.chat_prompt(body.template_messages())
    (prompt_ids,) = await data_plane.encode([prompt], add_special=False, param="messages")
    return [
        GenerationSpec(
            prompt_ids=prompt_ids,
            max_tokens=body.output_tokens_limit,
            n=body.num_choices,
            sampling=body.sampling(body.num_logprobs),
            seed=body.seed,
            stop=body.stop,
            stop_token_ids=frozenset(body.stop_token_ids or ()),
            ignore_eos=bool(body.ignore_eos),
            guides=await body_guides(body, data_plane),
        )
    ]


class ChatForm:
    """`chat.completion` and `chat.completion.chunk` objects of one call."""

    def __init__(self, model_name: str, *, include_usage: bool, token_bytes: Callable[[int], bytes]) -> None:
        self._fields = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": model_name}
        self._token_bytes = token_bytes
        head = _json({**self._fields, "object": "chat.completion.chunk"})[:-1]
        self._head = b"data: " + head + b',"choices":[{"index":%d,"delta":'
        self._tail = b',"usage":null}\n\n' if include_usage else b"}\n\n"
        self._usage_head = b"data: " + head + b',"choices":[],"usage":'

    def opening(self, num_choices: int) -> bytes:
        """The role of every choice."""
        delta = b'{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}]'
        return b"".join([self._head % index + delta + self._tail for index in range(num_choices)])

    def event(self, delta: ChoiceDelta) -> bytes:
        """One `chat.completion.chunk`."""
        logprobs = self._logprobs(delta.logprobs) if delta.logprobs else b"null"
        reason = b'"%s"' % delta.finish_reason.encode() if delta.finish_reason else b"null"
        content = b'{"content":%s},"logprobs":%s,"finish_reason":%s}]' % (_json(delta.text), logprobs, reason)
        return self._head % delta.index + content + self._tail

    def usage_event(self, usage: Usage) -> bytes:
        """A chunk with token counts and no choices."""
        return self._usage_head + _json(usage_fields(usage)) + b"}\n\n"

    def answer(self, choices: Sequence[FinishedChoice], usage: Usage) -> bytes:
        """A `chat.completion`."""
        fields = {
            **self._fields,
            "object": "chat.completion",
            "choices": [self._choice(choice) for choice in choices],
            "usage": usage_fields(usage),
        }
        return _json(fields)

    def _choice(self, choice: FinishedChoice) -> dict[str, object]:
        return {
            "index": choice.index,
            "message": {"role": "assistant", "content": choice.text, "refusal": None},
            "logprobs": msgspec.Raw(self._logprobs(choice.logprobs)) if choice.logprobs else None,
            "finish_reason": choice.finish_reason,
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
