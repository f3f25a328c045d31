"""Making token ids and guides from a call, off the event loop if that takes long."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from shoal.errors import InvalidRequest
from shoal.generation.call_requests import ContextLengthExceeded
from shoal.generation.readers import Readers
from shoal.generation.seams import Guide, PromptTokenizer
from shoal.model.text.grammar.constraint import Constraint

SHORT_TEXT_CHARS = 4096
"""Longer texts are tokenized in a thread. At the 0.4 MB/s of a byte-pair tokenizer with its slowest text (alternating
digits and letters, SmolLM2's vocabulary, 2 cores), this length takes a hundredth of a second."""


class PromptReader:
    """Reads the texts, conversations and constraints of calls to one model, within its limits."""

    def __init__(self, tokenizer: PromptTokenizer, max_context: int, readers: Readers) -> None:
        """
        Args:
            tokenizer: the model's tokenizer.
            max_context: the longest sequence, prompt and output together, in tokens.
            readers: threads for long texts.
        """
        self._tokenizer, self._max_context, self._readers = tokenizer, max_context, readers

    def check_length(self, texts: Iterable[str], param: str) -> None:
        """Refuse texts that cannot fit before any work is done on them. Raises ContextLengthExceeded."""
        limit = self._max_context * self._tokenizer.max_token_chars
        num_chars = sum(map(len, texts))
        if num_chars > limit:
            raise ContextLengthExceeded(
                f"This model's maximum context length is {self._max_context} tokens, which are {limit} characters at "
                f"most, but the prompt has {num_chars}: shorten it",
                param=param,
            )

    async def encode(self, texts: Sequence[str], *, add_special: bool, param: str = "prompt") -> list[tuple[int, ...]]:
        """Token ids of each text, computed off the event loop except for short ones.

        Raises:
            ContextLengthExceeded: a text cannot fit; nothing was computed.
            QueueFull: too many requests wait to be read.
        """
        for text in texts:
            self.check_length((text,), param)
        encode = self._tokenizer.encode
        if sum(map(len, texts)) <= SHORT_TEXT_CHARS:
            return [tuple(encode(text, add_special=add_special)) for text in texts]
        return [
            await self._readers.run(lambda text=text: tuple(encode(text, add_special=add_special))) for text in texts
        ]

    async def chat_prompt(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        """The prompt of a conversation, made off the event loop.

        Raises:
            InvalidRequest, ContextLengthExceeded: the messages are invalid, or cannot fit.
            QueueFull: too many requests wait to be read.
        """
        if len(messages) > self._max_context:
            raise ContextLengthExceeded(
                f"This model's maximum context length is {self._max_context} tokens, and there are {len(messages)} "
                "messages: leave some out",
                param="messages",
            )
        self.check_length((str(message["content"]) for message in messages), "messages")
        return await self._readers.run(lambda: self._tokenizer.chat_prompt(messages, tools, variables))

    async def guides(self, constraint: Constraint | None, num_choices: int, param: str) -> tuple[Guide, ...]:
        """The guides of a call's choices, compiled off the event loop; empty without a constraint.

        Raises:
            InvalidRequest: the constraint is malformed, cannot be satisfied or uses unsupported features.
            QueueFull: too many requests wait to be read.
        """
        if constraint is None:
            return ()
        try:
            return await self._readers.run(lambda: tuple(self._tokenizer.guide(constraint) for _ in range(num_choices)))
        except InvalidRequest as error:
            raise InvalidRequest(f"`{param}` cannot be used: {error}", param=param) from error
