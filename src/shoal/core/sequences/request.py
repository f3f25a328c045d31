"""A language-model request and what comes back for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NewType, Protocol

from shoal.core.sequences.beams import BeamProgress, BeamSearch
from shoal.core.sequences.pictures import Pictures
from shoal.protocol.language_messages import Sampling, TokenLogprobs

RequestId = NewType("RequestId", str)
FinishReason = Literal["stop", "length", "cancelled", "error"]
NO_ADAPTER = -1
"""In the place of an adapter's number: the model as it is."""


class TokenGuide(Protocol):
    """Which tokens an output may go on with: a condition such as a JSON schema, compiled for one request."""

    def allowed(self, outputs: Sequence[int], /) -> bytes:
        """A bit a token of the vocabulary, the first in the lowest bit of the first byte; one is set at least.

        Depends on nothing but the output tokens so far, so that a request which is computed again goes on alike.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """What a request has an encoder read. It stays with the request, so that another worker can encode it again."""

    key: bytes
    """Digest of the features: requests with the same share what the encoder gave."""
    num_rows: int
    """Rows that the encoder computes for it."""
    features: bytes = field(repr=False)
    """See `Encoding`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipAttention:
    """Where in its clip a request with given outputs is to say that heads look, with each of its rows."""

    heads: tuple[tuple[int, int], ...]
    """layer and head of each, by layer"""
    num_positions: int
    """leading ones of the clip that are sound"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One sequence to generate. `n` choices of an API call are n requests with different seeds."""

    request_id: RequestId
    prompt_ids: tuple[int, ...]
    """The prompt, at least one token."""
    max_tokens: int
    """The most output tokens, >= 1."""
    min_tokens: int = 0
    """Output tokens before the first that may be a stop token, >= 0."""
    sampling: Sampling = field(default_factory=Sampling)
    stop_token_ids: frozenset[int] = frozenset()
    """Tokens that end the request. A stop token is counted and reported; the caller hides its text."""
    targets: tuple[int, ...] = ()
    """Output tokens to take instead of drawing any, at most max_tokens: teacher forcing, to score and to verify."""
    clip: Clip | None = None
    """Of a model with an encoder; None: the sequence attends over nothing."""
    pictures: Pictures | None = None
    """Within the prompt; None: all of it is tokens."""
    want_logits: bool = False
    """Whether to return the raw logits of every output position, for verification."""
    want_hidden: bool = False
    """Return the hidden state of the prompt's last token behind the final norm, in the place of a token."""
    adapter: int = NO_ADAPTER
    """Number of the low-rank adapter that its tokens are computed with, among those of the model."""
    guide: TokenGuide | None = None
    """Keeps the output within a condition; a guide serves one request only."""
    attention: ClipAttention | None = None
    """Is told with the last output; only where there are targets and a clip."""
    beams: BeamSearch | None = None
    """How the best output is looked for, which is told when it is found; its guide must not remember what it was asked
    before. None: tokens are drawn one after the other."""

    @property
    def num_places(self) -> int:
        """The most sequences that it is computed by at once."""
        return 1 if self.beams is None else self.beams.num_beams

    @property
    def root(self) -> bytes:
        """What keys and values depend on beside the tokens before them: the clip and the adapter; empty: nothing."""
        clip = b"" if self.clip is None else self.clip.key
        return clip if self.adapter == NO_ADAPTER else clip + self.adapter.to_bytes(4, "little")


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestProgress:
    """What a request has behind it when it goes on on other workers: its outputs are computed again, not told again."""

    outputs: tuple[int, ...]
    """Tokens that the client has received."""
    num_cached_tokens: int | None
    """Prompt tokens that the request once took from a prefix index; None: it has never been admitted."""
    added_s: float
    """When the request first came, on the clock of `Scheduler.handle`."""
    num_losses: int
    """How often in a row, without a token in between, workers were lost while they computed the request."""
    beams: BeamProgress | None = None
    """Where the search for its output is; None: nothing is looked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenProduced:
    """One more output token of a request, in order, each exactly once."""

    request_id: RequestId
    token_id: int
    logprobs: TokenLogprobs | None = None
    logits: bytes = b""
    hidden: bytes = b""
    attention: tuple[bytes, ...] = ()
    """fp16 [heads, rows, positions] of the request's rows, piece after piece, the last of which is not computed"""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestFinished:
    """The last event of a request, exactly once."""

    request_id: RequestId
    reason: FinishReason
    num_prompt_tokens: int
    num_output_tokens: int
    num_cached_tokens: int = 0
    """Prompt tokens that were taken from the prefix index instead of being computed."""
    message: str = ""
    """The cause, where `reason` is `error`."""
    breaks_workers: bool = False
    """Whether the request was ended because it is taken to be what broke the workers that had it."""


Output = TokenProduced | RequestFinished
