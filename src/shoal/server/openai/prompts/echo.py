"""Completions that begin with their prompts, by which evaluation tools score texts.

A prompt is scored by a request of its own, whose output tokens are those of the prompt. The choices of such requests
come before those that continue the same prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from shoal.errors import InvalidRequest
from shoal.generation.data_plane import DataPlane
from shoal.generation.generation import GenerationSpec, Usage
from shoal.generation.output.choice import ChoiceDelta, FinishedChoice
from shoal.server.openai.body.completion_body import CompletionBody
from shoal.server.openai.completions import CompletionForm, completion_spec, prompt_tokens
from shoal.server.openai.form import usage_fields
from shoal.server.openai.prompts.scores import scoring_spec

_json = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True, kw_only=True)
class EchoedPrompt:
    """One prompt and the choices that belong to it."""

    text: str
    token_ids: tuple[int, ...]
    is_scored: bool
    """Whether a choice with the prompt's log-probabilities comes first."""
    num_choices: int
    """Number of choices that continue the prompt; may be 0."""


async def echoed_specs(body: CompletionBody, data_plane: DataPlane) -> tuple[list[GenerationSpec], list[EchoedPrompt]]:
    """The specifications to compute, and how their results are combined. Raises InvalidRequest."""
    specs: list[GenerationSpec] = []
    prompts: list[EchoedPrompt] = []
    for prompt, prompt_ids in zip(body.prompt, await prompt_tokens(body.prompt, data_plane), strict=True):
        if not prompt_ids:
            raise InvalidRequest("the prompt is empty: it must have at least one token", param="prompt")
        spec = await completion_spec(body, prompt_ids, data_plane)
        is_scored = body.logprobs is not None and len(prompt_ids) > 1
        if is_scored:
            specs.append(scoring_spec(prompt_ids, body.logprobs or 0))
        num_choices = body.num_choices if body.output_tokens_limit else 0
        if num_choices:
            specs.append(spec)
        text = prompt if isinstance(prompt, str) else data_plane.tokenizer.decode(prompt_ids)
        prompts.append(EchoedPrompt(text=text, token_ids=prompt_ids, is_scored=is_scored, num_choices=num_choices))
    return specs, prompts


class EchoForm(CompletionForm):
    """`text_completion` objects whose texts begin with the prompt."""

    def __init__(
        self,
        model_name: str,
        prompts: Sequence[EchoedPrompt],
        *,
        include_usage: bool,
        token_bytes: Callable[[int], bytes],
        has_logprobs: bool,
    ) -> None:
        super().__init__(model_name, include_usage=include_usage, token_bytes=token_bytes)
        self._prompts = prompts
        self._has_logprobs = has_logprobs

    def opening(self, num_choices: int) -> bytes:
        """The prompt of every choice."""
        texts = [prompt.text for prompt in self._prompts for _ in range(prompt.num_choices)]
        return b"".join(self.event(ChoiceDelta(index=index, text=text)) for index, text in enumerate(texts))

    def answer(self, choices: Sequence[FinishedChoice], usage: Usage) -> bytes:
        """The whole answer as a `text_completion` object."""
        scored = sum(len(prompt.token_ids) - 1 for prompt in self._prompts if prompt.is_scored)
        counts = replace(
            usage,
            prompt_tokens=sum(len(prompt.token_ids) for prompt in self._prompts),
            completion_tokens=usage.completion_tokens - scored,
        )
        shown = [{**fields, "index": index} for index, fields in enumerate(self._merged(choices))]
        return _json({**self._fields, "choices": shown, "usage": usage_fields(counts)})

    def _merged(self, choices: Sequence[FinishedChoice]) -> Iterator[dict[str, Any]]:
        rest = iter(choices)
        for prompt in self._prompts:
            scores = next(rest) if prompt.is_scored else None
            before = self._prompt_logprobs(prompt, scores) if self._has_logprobs else None
            if not prompt.num_choices:
                yield {"text": prompt.text, "logprobs": before, "finish_reason": "length"}
            for _ in range(prompt.num_choices):
                choice = next(rest)
                yield {
                    "text": prompt.text + choice.text,
                    "logprobs": before and _joined(before, self._logprobs(choice.logprobs), len(prompt.text)),
                    "finish_reason": choice.finish_reason,
                }

    def _prompt_logprobs(self, prompt: EchoedPrompt, scores: FinishedChoice | None) -> dict[str, list[Any]]:
        """The prompt's log-probabilities; there is none for its first token, since nothing comes before it."""
        name = self._name(prompt.token_ids[0])
        first: dict[str, list[Any]] = {
            "tokens": [name], "token_logprobs": [None], "top_logprobs": [None], "text_offset": [0],
        }  # fmt: skip
        if scores is None:
            return first
        shift = max(0, len(prompt.text) - len(scores.text))
        return _joined(first, self._logprobs(scores.logprobs), shift)


def _joined(before: dict[str, list[Any]], after: dict[str, list[Any]], shift: int) -> dict[str, list[Any]]:
    """Both lists joined, with the offsets of the second one increased by `shift` characters."""
    moved = {**after, "text_offset": [offset + shift for offset in after["text_offset"]]}
    return {name: [*values, *moved[name]] for name, values in before.items()}
