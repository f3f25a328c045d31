"""One prompt on its way through the data plane, inside the event loop of `shoal.LLM`."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from shoal.api.messages import read_messages
from shoal.api.outputs import CompletionOutput, RequestOutput
from shoal.api.sampling import SamplingOptions, generation_spec, named_constraint
from shoal.errors import InvalidRequest
from shoal.generation.chat_prompts import ChatPrompt, chat_prompt, seen_pictures
from shoal.generation.data_plane import DataPlane
from shoal.generation.generation import Generation, Usage
from shoal.generation.message_parts import picture_sources
from shoal.generation.output.choice import FinishedChoice
from shoal.generation.seams import PlacedPictures

Message = Mapping[str, Any]
"""`role`, a text, and `content`: a text, or parts of texts and pictures as `LLM.chat` says; other keys are the chat
template's business"""
Prompt = str | Sequence[int] | Sequence[Message]
"""a text or token ids to continue, or a conversation to answer"""


class Call:
    """The running answer to one prompt. Belongs to the event loop."""

    def __init__(self, data_plane: DataPlane, prompt: Prompt, options: SamplingOptions) -> None:
        """
        Args:
            data_plane: does it.
            prompt: see `Prompt`.
            options: from `check_sampling`.
        """
        self._data_plane = data_plane
        self._prompt = prompt
        self._options = options
        self._text: str | None = None
        self._prompt_ids: tuple[int, ...] = ()
        self._placed: PlacedPictures | None = None
        self._choices = [FinishedChoice(index=index) for index in range(options.get("n", 1))]
        self._started_s = data_plane.now_s()
        self._generation: Generation | None = None

    async def start(self) -> None:
        """Make tokens of the prompt and hand it to the engine. Raises as `DataPlane.generate`."""
        self._started_s = self._data_plane.now_s()
        await self._tokenize()
        constraint, name = named_constraint(self._options) or (None, "")
        guides = await self._data_plane.prompts.guides(constraint, len(self._choices), name)
        spec = generation_spec(self._prompt_ids, self._options, guides)
        adapter = self._data_plane.adapter_number(self._options.get("adapter"))
        spec = replace(spec, adapter=adapter, pictures=await seen_pictures(self._data_plane, self._placed))
        self._generation = await self._data_plane.generate([spec], self._options.get("timeout"))

    async def deltas(self) -> AsyncGenerator[str]:
        """Text of the first continuation as it comes, after `start`; leaving the iteration cancels what still runs.

        Raises as the iteration over a `Generation`.
        """
        assert self._generation is not None
        async with self._generation as generation:
            async for deltas in generation:
                for delta in deltas:
                    self._choices[delta.index].add(delta)
                    if delta.index == 0 and delta.text:
                        yield delta.text

    async def finish(self) -> RequestOutput:
        """Start it, follow it to its end, and answer. Raises what they raise."""
        await self.start()
        async for _ in self.deltas():
            pass
        return self.output()

    def output(self) -> RequestOutput:
        """What there is so far: everything, once `deltas` has ended."""
        wants_logprobs = self._options.get("logprobs") is not None
        times_s = None if self._generation is None else self._generation.token_times_s
        first_s, last_s = times_s or (self._started_s, self._started_s)
        return RequestOutput(
            prompt=self._text,
            prompt_token_ids=self._prompt_ids,
            outputs=tuple(
                CompletionOutput(
                    index=choice.index,
                    text=choice.text,
                    token_ids=tuple(choice.token_ids),
                    finish_reason=choice.finish_reason,
                    logprobs=tuple(choice.logprobs) if wants_logprobs else None,
                )
                for choice in self._choices
            ),
            usage=Usage(prompt_tokens=len(self._prompt_ids), completion_tokens=0, cached_tokens=0)
            if self._generation is None
            else self._generation.usage,
            ttft_s=first_s - self._started_s,
            duration_s=last_s - self._started_s,
        )

    async def _tokenize(self) -> None:
        prompt = self._prompt
        if isinstance(prompt, str):
            self._text = prompt
            (self._prompt_ids,) = await self._data_plane.prompts.encode([prompt], add_special=True)
        elif is_conversation(prompt):
            self._text, self._prompt_ids, self._placed = await self._chat_prompt(prompt)
        else:
            self._prompt_ids = _checked_ids(prompt, self._data_plane.tokenizer.vocab_size)

    async def _chat_prompt(self, messages: Sequence[Any]) -> ChatPrompt:
        forms, contents = read_messages(messages)
        if not self._data_plane.tokenizer.has_chat_template:
            raise InvalidRequest("this model has no chat template: continue a plain text instead", param="messages")
        return await chat_prompt(self._data_plane, forms, picture_sources(contents))


def is_conversation(prompt: object) -> bool:
    """Whether it is messages, not a text or token ids."""
    return isinstance(prompt, Sequence) and bool(prompt) and isinstance(prompt[0], Mapping)


def _checked_ids(prompt: object, vocab_size: int) -> tuple[int, ...]:
    """Token ids. Raises InvalidRequest where they are none."""
    if not isinstance(prompt, Sequence) or not all(isinstance(one, int) for one in prompt):
        raise InvalidRequest("a prompt must be a text or a list of token ids", param="prompt")
    if not all(0 <= token_id < vocab_size for token_id in prompt):
        raise InvalidRequest(f"token ids must be between 0 and {vocab_size - 1}", param="prompt")
    return tuple(prompt)
