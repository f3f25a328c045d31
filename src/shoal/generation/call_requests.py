"""Making the engine's requests from the prompts of a call, with checks against the model's limits."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import msgspec

from shoal.core.sequences.request import Request, RequestId
from shoal.errors import InvalidRequest
from shoal.generation.generation import GenerationSpec
from shoal.generation.output.choice import Choice
from shoal.generation.output.text_stream import StopString, TextStream, prepare_stops
from shoal.generation.seams import Guide, PromptTokenizer

NUM_SEEDS = 1 << 63
"""Seeds are 0 <= seed < 2**63, see `Sampling.seed`."""


class ContextLengthExceeded(InvalidRequest):
    """Prompt and output together do not fit into the model's context."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CallRequest:
    """One sequence of a call: the engine's request, and the choice that takes its tokens."""

    request: Request
    choice: Choice
    guide: Guide | None


class CallRequests:
    """Makes the requests of calls to one model."""

    def __init__(self, tokenizer: PromptTokenizer, max_context: int, draw_seed: Callable[[], int]) -> None:
        """
        Args:
            tokenizer: the model's tokenizer.
            max_context: the longest sequence, prompt and output together, in tokens.
            draw_seed: draws a seed for prompts without one.
        """
        self._tokenizer, self._max_context, self._draw_seed = tokenizer, max_context, draw_seed

    def make(self, specs: Sequence[GenerationSpec], call_id: str) -> list[CallRequest]:
        """Make the requests of all choices, prompt by prompt.

        Args:
            specs: the prompts.
            call_id: the beginning of the requests' ids; empty: a random one.

        Raises:
            InvalidRequest, ContextLengthExceeded: a prompt cannot be served.
        """
        own_id = uuid.uuid4().hex
        call_id = f"{call_id}-{own_id[:8]}" if call_id else own_id  # clients may repeat ids
        made: list[CallRequest] = []
        for spec in specs:
            max_tokens, stop_token_ids = self._allowed_tokens(spec), self._stop_token_ids(spec)
            self._check_ids((token_id for token_id, _ in spec.sampling.logit_bias), "logit_bias")
            stops = prepare_stops(spec.stop)
            for sibling in range(spec.n):
                request = Request(
                    request_id=RequestId(f"{call_id}-{len(made)}"),
                    prompt_ids=spec.prompt_ids,
                    max_tokens=max_tokens,
                    min_tokens=spec.min_tokens,
                    targets=spec.targets,
                    sampling=msgspec.structs.replace(spec.sampling, seed=self._seed(spec, sibling)),
                    stop_token_ids=stop_token_ids,
                    adapter=spec.adapter,
                    pictures=spec.pictures,
                    guide=spec.guides[sibling] if spec.guides else None,
                )
                made.append(self._with_choice(request, spec, stops, len(made), sibling))
        return made

    def _with_choice(
        self, request: Request, spec: GenerationSpec, stops: tuple[StopString, ...], index: int, sibling: int
    ) -> CallRequest:
        detokenizer = self._tokenizer.detokenizer(spec.prompt_ids, skip_special=not spec.shows_special)
        choice = Choice(index, TextStream(detokenizer, stops), request.stop_token_ids, spec.min_tokens)
        return CallRequest(request=request, choice=choice, guide=spec.guides[sibling] if spec.guides else None)

    def _seed(self, spec: GenerationSpec, sibling: int) -> int:
        return (self._draw_seed() if spec.seed is None else spec.seed + sibling) % NUM_SEEDS

    def _stop_token_ids(self, spec: GenerationSpec) -> frozenset[int]:
        """The stop tokens of all choices. Raises InvalidRequest if one is no token."""
        if spec.targets:
            return frozenset()
        self._check_ids(spec.stop_token_ids, "stop_token_ids")
        return spec.stop_token_ids if spec.ignore_eos else spec.stop_token_ids | self._tokenizer.eos_token_ids

    def _check_ids(self, token_ids: Iterable[int], param: str) -> None:
        vocab_size = self._tokenizer.vocab_size
        if not all(0 <= token_id < vocab_size for token_id in token_ids):
            raise InvalidRequest(f"token ids must be between 0 and {vocab_size - 1}", param=param)

    def _allowed_tokens(self, spec: GenerationSpec) -> int:
        """The most output tokens that the request may have: its `max_tokens`, or as many as the context leaves.

        Raises InvalidRequest, ContextLengthExceeded.
        """
        num_prompt_tokens, num_least_tokens = len(spec.prompt_ids), max(1, len(spec.targets))
        if not num_prompt_tokens:
            raise InvalidRequest("the prompt is empty: it must have at least one token", param="prompt")
        num_left_tokens = self._max_context - num_prompt_tokens
        if num_left_tokens < num_least_tokens:
            raise ContextLengthExceeded(
                f"This model's maximum context length is {self._max_context} tokens, but the prompt has "
                f"{num_prompt_tokens} and the output at least {num_least_tokens}: shorten the prompt",
                param="prompt",
            )
        if spec.targets:
            return num_least_tokens
        num_tokens = num_left_tokens if spec.max_tokens is None else min(spec.max_tokens, num_left_tokens)
        if spec.max_tokens is not None and spec.min_tokens > num_tokens:
            raise InvalidRequest(
                f"min_tokens is {spec.min_tokens}, but the output has at most {num_tokens} tokens", param="min_tokens"
            )
        return num_tokens
