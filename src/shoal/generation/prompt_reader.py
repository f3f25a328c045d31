"""From what a call says to token ids and guides, off the event loop where that takes long."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from shoal.errors import InvalidRequest
from shoal.generation.call_requests import ContextLengthExceeded
from shoal.generation.readers import Readers
from shoal.generation.seams import Guide, PromptTokenizer
from shoal.model.text.grammar.constraint import Constraint

SHORT_TEXT_CHARS = 4096
"""Longer texts are tokenised in a thread. At the 0.4 MB/s of a byte-pair tokeniser over the text that is hardest for it
(digits and letters in turn, SmolLM2's vocabulary, 2 cores), this takes a hundredth of a second."""


class PromptReader:
    """Reads the texts, conversations and constraints of calls to one model, within its limits."""

    def __init__(self, tokenizer: PromptTokenizer, max_context: int, readers: Readers) -> None:
        """
        Args:
            tokenizer: of the model.
            max_context: longest sequence, prompt and output together, in tokens.
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
        """Token ids of each text, off the event loop but for short ones.

        Raises:
            ContextLengthExceeded: one of them cannot fit; nothing was computed.
            QueueFull: too many wait to be read.
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
            InvalidRequest, ContextLengthExceeded: it cannot be made of these messages, or cannot fit.
            QueueFull: too many wait to be read.
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
        """What keeps each choice of a call within a constraint, compiled off the event loop; None: nothing.

        Raises:
            InvalidRequest: it is malformed, cannot be satisfied or uses what is not supported.
            QueueFull: too many wait to be read.
        """
        if constraint is None:
            return ()
        try:
            return await self._readers.run(lambda: tuple(self._tokenizer.guide(constraint) for _ in range(num_choices)))
        except InvalidRequest as error:
            raise InvalidRequest(f"`{param}` cannot be used: {error}", param=param) from error
