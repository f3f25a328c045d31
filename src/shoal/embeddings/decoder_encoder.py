"""A language model as an encoder of texts: a vector is the hidden state of a text's last token.

Source: Qwen3 Embedding, arXiv 2506.05176, section 2.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from shoal.embeddings.encoder import Encoded, Text
from shoal.errors import InvalidRequest
from shoal.generation.data_plane import DataPlane
from shoal.model.encoder.pooling import normalized
from shoal.model.encoder.sentence_settings import SentenceSettings


class DecoderEncoder:
    """Encodes texts with a language model. Implements `TextEncoder`."""

    compares = False

    def __init__(self, data_plane: DataPlane, sentences: SentenceSettings) -> None:
        """`sentences`: the encoder's settings; their pooling must be that of the last token."""
        self._data_plane = data_plane
        self._sentences = sentences

    async def embed(
        self, texts: Sequence[Text], *, kind: str = "", cuts: bool = False, timeout_s: float | None = None
    ) -> Encoded:
        """See `TextEncoder`."""
        prompt = self._sentences.prompt(kind)
        strings = [prompt + text for text in texts if isinstance(text, str)]
        encoded = iter(await self._data_plane.prompts.encode(strings, add_special=True, param="input"))
        rows = [next(encoded) if isinstance(text, str) else self._checked(text) for text in texts]
        rows = [self._fitted(row, cuts=cuts) for row in rows]
        hidden = await self._data_plane.embed(rows, timeout_s)
        values = np.stack([np.frombuffer(one, "<f4") for one in hidden])
        if self._sentences.is_normalized:
            values = normalized(values)
        return Encoded(values=values, num_tokens=sum(map(len, rows)))

    async def compare(
        self, pairs: Sequence[tuple[str, str]], *, instruction: str = "", timeout_s: float | None = None
    ) -> Encoded:
        """Not supported. Raises InvalidRequest."""
        raise InvalidRequest("this model does not compare texts")

    def close(self) -> None:
        """Do nothing; the owner closes the data plane."""

    def _checked(self, ids: Sequence[int]) -> tuple[int, ...]:
        vocab_size = self._data_plane.tokenizer.vocab_size
        if not ids or not 0 <= min(ids) <= max(ids) < vocab_size:
            raise InvalidRequest(
                f"token ids must be between 0 and {vocab_size - 1}, and there must be at least one", "input"
            )
        return tuple(ids)

    def _fitted(self, ids: tuple[int, ...], *, cuts: bool) -> tuple[int, ...]:
        """Cut a text to the context, if allowed, keeping its last token, which stands for the whole text."""
        longest = min(self._data_plane.max_context - 1, self._sentences.max_tokens or self._data_plane.max_context)
        if len(ids) <= longest:
            return ids
        if not cuts:
            raise InvalidRequest(
                f"this model accepts at most {longest} tokens, but a text has {len(ids)}: shorten it, or set "
                "`truncate_prompt_tokens` to -1",
                "input",
            )
        return (*ids[: longest - 1], ids[-1])
