"""A language model as a ranker of texts: the score is the probability of `yes` among two allowed answers.

Each pair is a request for one token of which only the two answers are allowed, so log-probabilities are relative to
these two, and prompts with a common prefix share their KV blocks.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Sequence
from itertools import takewhile

import numpy as np

from shoal.core.sequences.request import Request, RequestId, TokenProduced
from shoal.embeddings.encoder import Encoded, Text, no_instruction
from shoal.errors import InvalidRequest, ModelLoadError
from shoal.generation.data_plane import DataPlane
from shoal.model.encoder.yes_no import YesNoSettings
from shoal.protocol.language_messages import Sampling

_SAMPLING = Sampling(temperature=0.0, num_logprobs=2)


class YesNoRanker:
    """Ranks texts with a language model. Implements `TextEncoder`."""

    compares = True

    def __init__(self, data_plane: DataPlane, settings: YesNoSettings) -> None:
        """Prepare the ranker. Raises ModelLoadError if an answer is no token of the model."""
        self._data_plane = data_plane
        self._settings = settings
        self._yes, self._no = (self._token(answer) for answer in (settings.yes, settings.no))
        self._guide = _OneOf((self._yes, self._no))

    async def embed(
        self, texts: Sequence[Text], *, kind: str = "", cuts: bool = False, timeout_s: float | None = None
    ) -> Encoded:
        """Not supported. Raises InvalidRequest."""
        raise InvalidRequest("this model makes no vectors of texts")

    async def compare(
        self, pairs: Sequence[tuple[str, str]], *, instruction: str = "", timeout_s: float | None = None
    ) -> Encoded:
        """See `TextEncoder`."""
        prompt = self._settings.prompt
        if instruction and not prompt.takes_instructions:
            raise no_instruction()
        limit = self._data_plane.max_context * self._data_plane.tokenizer.max_token_chars
        rows = await self._data_plane.readers.run(
            lambda: [self._row(query[:limit], document[:limit], instruction) for query, document in pairs]
        )
        call_id = uuid.uuid4().hex
        requests = [
            Request(
                request_id=RequestId(f"{call_id}-{index}"),
                prompt_ids=row,
                max_tokens=1,
                sampling=_SAMPLING,
                guide=self._guide,
            )
            for index, row in enumerate(rows)
        ]
        produced = await self._data_plane.collect(requests, timeout_s)
        scores = [self._score(produced[request.request_id][0]) for request in requests]
        return Encoded(values=np.array(scores, np.float32), num_tokens=sum(map(len, rows)))

    def close(self) -> None:
        """Do nothing; the owner closes the data plane."""

    def _row(self, query: str, document: str, instruction: str) -> tuple[int, ...]:
        """The tokens of a prompt. If it is too long, the end of the document is cut. Raises InvalidRequest."""
        prompt, encode = self._settings.prompt, self._data_plane.tokenizer.encode
        text = prompt.render(query, document, instruction)
        ids = encode(text, add_special=False)
        longest = min(self._data_plane.max_context - 1, self._settings.max_tokens or self._data_plane.max_context)
        if len(ids) <= longest:
            return tuple(ids)
        if len(encode(prompt.render(query, "", instruction), add_special=False)) > longest:
            raise InvalidRequest(f"the query leaves no room for a text: a pair may have {longest} tokens", "query")
        end = encode(_common_end(text, prompt.render(query, document + _OTHER, instruction)), add_special=False)
        return (*ids[: longest - len(end)], *end)

    def _token(self, answer: int | str) -> int:
        tokenizer = self._data_plane.tokenizer
        ids = tokenizer.encode(answer, add_special=False) if isinstance(answer, str) else [answer]
        if len(ids) != 1 or ids[0] >= tokenizer.vocab_size:
            raise ModelLoadError(f"the model should answer {answer!r}, which is not a token of its vocabulary")
        return ids[0]

    def _score(self, answer: TokenProduced) -> float:
        assert answer.logprobs is not None, "they were asked for"
        logprobs = dict(zip(answer.logprobs.top_ids, answer.logprobs.top_logprobs, strict=True))
        return math.exp(logprobs[self._yes])


class _OneOf:
    """A guide that allows only certain tokens. Implements `TokenGuide`."""

    def __init__(self, token_ids: Sequence[int]) -> None:
        bits = np.zeros(max(token_ids) + 1, np.uint8)
        bits[list(token_ids)] = 1
        self._mask = np.packbits(bits, bitorder="little").tobytes()

    def allowed(self, outputs: Sequence[int]) -> bytes:
        """See `TokenGuide`."""
        return self._mask


_OTHER = "\ue000"
"""A private-use character after a document, so that the common end of two prompts is the text after documents."""


def _common_end(text: str, other: str) -> str:
    """The longest common suffix of two texts."""
    pairs = zip(reversed(text), reversed(other), strict=False)
    num_chars = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
    return text[len(text) - num_chars :]
