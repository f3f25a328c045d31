"""Requests to language models, and their outputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NewType, Protocol

import msgspec

from shoal.core.sequences.beams import BeamProgress, BeamSearch
from shoal.core.sequences.pictures import Pictures
from shoal.protocol.language_messages import Sampling, TokenLogprobs

RequestId = NewType("RequestId", str)
FinishReason = Literal["stop", "length", "cancelled", "error"]
NO_ADAPTER = -1
"""Stands for no adapter: the model as it is."""


class TokenGuide(Protocol):
    """A condition on an output, such as a JSON schema, compiled for one request: it tells which tokens may come
    next."""

    def allowed(self, outputs: Sequence[int], /) -> bytes:
        """One bit for each token of the vocabulary, starting with the lowest bit of the first byte; at least one is
        set.

        The result depends only on the output tokens so far, so a request that is recomputed continues in the same way.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """The input of the encoder for a request. The request keeps it, so that other workers can encode it again."""

    key: bytes
    """Digest of the features: requests with equal keys share the encoder's outputs."""
    num_rows: int
    """Rows of the encoder's output."""
    features: bytes = field(repr=False)
    """The features, as in `Encoding`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipAttention:
    """Which attention over its clip a request with given outputs (targets) reports for each of its rows."""

    heads: tuple[tuple[int, int], ...]
    """(layer, head) of each reported head, ordered by layer."""
    num_positions: int
    """The leading positions of the clip that are sound, not padding."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One sequence to generate. `n` choices of an API call are n requests with different seeds."""

    request_id: RequestId
    prompt_ids: tuple[int, ...]
    """The prompt, at least one token."""
    max_tokens: int
    """The most output tokens, >= 1."""
    min_tokens: int = 0
    """The number of output tokens before a stop token is allowed, >= 0."""
    sampling: Sampling = field(default_factory=Sampling)
    stop_token_ids: frozenset[int] = frozenset()
    """Tokens that end the request. A stop token is counted and reported; the caller hides its text."""
    targets: tuple[int, ...] = ()
    """Given output tokens, at most max_tokens, which are used instead of sampling: teacher forcing for scores and
    verification."""
    clip: Clip | None = None
    """The encoder's input; None: the model has no encoder."""
    pictures: Pictures | None = None
    """The pictures in the prompt; None: it consists of tokens only."""
    want_logits: bool = False
    """Whether to return the raw logits of every output position, for verification."""
    want_hidden: bool = False
    """Whether to return the hidden state of the prompt's last token after the final norm instead of a token."""
    adapter: int = NO_ADAPTER
    """The index of its low-rank adapter among those of the model; NO_ADAPTER: none."""
    guide: TokenGuide | None = None
    """The condition on the output; a guide belongs to one request only."""
    attention: ClipAttention | None = None
    """Attention to report with the last output; needs targets and a clip."""
    beams: BeamSearch | None = None
    """Beam search, whose outputs are all sent at its end; a guide must then be stateless. None: tokens are sampled."""

    @property
    def num_places(self) -> int:
        """The most sequences that the request can have at once."""
        return 1 if self.beams is None else self.beams.num_beams

    @property
    def root(self) -> bytes:
        """What keys and values depend on beside the preceding tokens: the clip and the adapter; empty: neither."""
        clip = b"" if self.clip is None else self.clip.key
        return clip if self.adapter == NO_ADAPTER else clip + self.adapter.to_bytes(4, "little")


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestProgress:
    """The progress of a request that continues on other workers. Its outputs are recomputed but not sent again."""

    outputs: tuple[int, ...]
    """Tokens that the client has received."""
    num_cached_tokens: int | None
    """Prompt tokens that came from a prefix index at its first admission; None: it was never admitted."""
    added_s: float
    """When the request first arrived, on the clock of `Scheduler.handle`."""
    num_losses: int
    """The number of losses of workers in a row while they computed the request, without a token in between."""
    beams: BeamProgress | None = None
    """The state of its beam search; None: it has none."""


class TokenProduced(msgspec.Struct, frozen=True, kw_only=True):
    """An output token of a request. Tokens are sent in order, each exactly once."""

    request_id: RequestId
    token_id: int
    logprobs: TokenLogprobs | None = None
    logits: bytes = b""
    hidden: bytes = b""
    attention: tuple[bytes, ...] = ()
    """Attention of the request's rows, fp16 [heads, rows, positions], chunk by chunk; the last row is not computed."""


class RequestFinished(msgspec.Struct, frozen=True, kw_only=True):
    """The end of a request, sent exactly once and after all its tokens."""

    request_id: RequestId
    reason: FinishReason
    num_prompt_tokens: int
    num_output_tokens: int
    num_cached_tokens: int = 0
    """Prompt tokens that were taken from the prefix index instead of being computed."""
    message: str = ""
    """The cause if `reason` is `error`."""
    breaks_workers: bool = False
    """Whether the request was ended because it is blamed for the loss of workers."""


Output = TokenProduced | RequestFinished
