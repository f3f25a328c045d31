"""/v1/completions: one or several raw prompts, answers as text."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from shoal.errors import InvalidRequest
from shoal.generation.data_plane import DataPlane
from shoal.generation.generation import GenerationSpec, Usage
from shoal.generation.output.choice import ChoiceDelta, FinishedChoice, PositionLogprobs
from shoal.server.openai.body.completion_body import CompletionBody
from shoal.server.openai.errors import ApiError
from shoal.server.openai.form import DONE_EVENT, failure_event, finite, token_name, top_pairs, usage_fields
from shoal.server.openai.guides import named_guides

_json = msgspec.json.Encoder().encode


async def completion_spec(body: CompletionBody, prompt_ids: tuple[int, ...], data_plane: DataPlane) -> GenerationSpec:
    """What to generate for one prompt. Raises InvalidRequest."""
    return GenerationSpec(
        prompt_ids=prompt_ids,
        max_tokens=body.output_tokens_limit,
        min_tokens=body.min_tokens or 0,
        n=body.num_choices,
        sampling=body.sampling(body.logprobs),
        seed=body.seed,
        stop=body.stop,
        stop_token_ids=frozenset(body.stop_token_ids or ()),
        ignore_eos=bool(body.ignore_eos),
        guides=await named_guides(body.constraint, body.num_choices, data_plane),
    )


async def prompt_tokens(prompts: Sequence[str | tuple[int, ...]], data_plane: DataPlane) -> list[tuple[int, ...]]:
    """The tokens of each prompt. All token ids are checked before any text is encoded. Raises InvalidRequest."""
    for prompt in prompts:
        if not isinstance(prompt, str):
            check_ids(prompt, data_plane, "prompt")
    texts = [prompt for prompt in prompts if isinstance(prompt, str)]
    encoded = iter(await data_plane.prompts.encode(texts, add_special=True))
    return [next(encoded) if isinstance(prompt, str) else prompt for prompt in prompts]


def check_ids(prompt: tuple[int, ...], data_plane: DataPlane, param: str) -> None:
    """Raises InvalidRequest, naming `param`, if an id is not a token."""
    vocab_size = data_plane.tokenizer.vocab_size
    if prompt and not 0 <= min(prompt) <= max(prompt) < vocab_size:
        raise InvalidRequest(f"token ids must be between 0 and {vocab_size - 1}", param=param)


class CompletionForm:
    """`text_completion` objects of one call."""

    def __init__(self, model_name: str, *, include_usage: bool, token_bytes: Callable[[int], bytes]) -> None:
        self._fields = {
            "id": f"cmpl-{uuid.uuid4().hex}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": model_name,
        }
        self._token_bytes = token_bytes
        head = b"data: " + _json(self._fields)[:-1]
        self._head = head + b',"choices":[{"index":'
        self._tail = b'}],"usage":null}\n\n' if include_usage else b"}]}\n\n"
        self._includes_usage = include_usage
        self._usage_head = head + b',"choices":[],"usage":'

    def opening(self, num_choices: int) -> bytes:
        """Empty: completions have no roles."""
        return b""

    def event(self, delta: ChoiceDelta) -> bytes:
        """One event of a stream: a chunk of a choice's text."""
        logprobs = _json(self._logprobs(delta.logprobs)) if delta.logprobs else b"null"
        reason = b'"%s"' % delta.finish_reason.encode() if delta.finish_reason else b"null"
        content = b'%d,"text":%s,"logprobs":%s,"finish_reason":%s' % (delta.index, _json(delta.text), logprobs, reason)
        return self._head + content + self._tail

    def closing(self, usage: Usage) -> bytes:
        """A chunk with token counts and no choices, if it was asked for, and the end."""
        counts = self._usage_head + _json(usage_fields(usage)) + b"}\n\n" if self._includes_usage else b""
        return counts + DONE_EVENT

    def failure(self, error: ApiError) -> bytes:
        """See `Form.failure`."""
        return failure_event(error.body())

    def answer(self, choices: Sequence[FinishedChoice], usage: Usage) -> bytes:
        """The whole answer as a `text_completion` object."""
        fields = {
            **self._fields,
            "choices": [self._choice(choice) for choice in choices],
            "usage": usage_fields(usage),
        }
        return _json(fields)

    def _choice(self, choice: FinishedChoice) -> dict[str, object]:
        return {
            "index": choice.index,
            "text": choice.text,
            "logprobs": self._logprobs(choice.logprobs) if choice.logprobs else None,
            "finish_reason": choice.finish_reason,
        }

    def _logprobs(self, positions: Sequence[PositionLogprobs]) -> dict[str, list[Any]]:
        return {
            "tokens": [self._name(position.token_id) for position in positions],
            "token_logprobs": [finite(position.logprobs.logprob) for position in positions],
            "top_logprobs": [msgspec.Raw(_json(self._top(position))) for position in positions],
            "text_offset": [position.text_offset for position in positions],
        }

    def _top(self, position: PositionLogprobs) -> dict[str, float]:
        """The most likely tokens and the drawn one, which may be one more than were asked for.

        Of several tokens with the same name the most likely one counts. Source: OpenAI API reference, `logprobs`.
        """
        drawn = (position.token_id, finite(position.logprobs.logprob))
        named: dict[str, float] = {}
        for token_id, logprob in (*top_pairs(position.logprobs), drawn):
            named.setdefault(self._name(token_id), logprob)
        return named

    def _name(self, token_id: int) -> str:
        return token_name(self._token_bytes(token_id))
