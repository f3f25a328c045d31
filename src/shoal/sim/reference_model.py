"""A tiny stand-in for a language model with predictable answers.

A token's KV entry is a number chained over all tokens before it, as a real layer's input is; the next token is a hash
over the entries of the whole context. Any wrong block, position or order changes the answer. An entry depends only on
the token ids up to its own, not on when, where or in which batch it is computed.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

from shoal.core.generation.scheduler_config import SchedulerConfig, output_limit
from shoal.core.sequences.beams import BeamSearch
from shoal.core.sequences.request import FinishReason, Request
from shoal.protocol.language_messages import Sampling, TokenLogprobs

VOCAB_SIZE = 61
FIRST_ENTRY = 1
"""The value to which the entry of position 0 is chained."""
_MASK = (1 << 64) - 1
_MULTIPLIER = 6364136223846793005
"""Source: Knuth, MMIX linear congruential generator."""


def chain_entry(previous: int, token_id: int, position: int) -> int:
    """The KV entry of a token, uint64."""
    return ((previous ^ (token_id + 1)) * _MULTIPLIER + position) & _MASK


def draw_token(
    entries: array[int],
    sampling: Sampling,
    token_index: int,
    history: bytes,
    allowed: bytes = b"",
    forbidden: Sequence[int] = (),
) -> int:
    """The next token after a context, which depends on seed, token index and history like real sampling.

    Args:
        entries: KV entries of the context.
        sampling: the sampling parameters, of which only the seed is used.
        token_index: the index of the token within its request's output.
        history: earlier output tokens for penalties, as the row contains them.
        allowed: see `SampleRow.allowed`; empty: all tokens.
        forbidden: see `SampleRow.forbidden`.
    """
    key = entries.tobytes() + sampling.seed.to_bytes(8, "little") + token_index.to_bytes(4, "little") + history
    drawn = int.from_bytes(blake2b(key, digest_size=4).digest(), "little")
    bits = int.from_bytes(allowed, "little") if allowed else (1 << VOCAB_SIZE) - 1
    candidates = [token_id for token_id in range(VOCAB_SIZE) if bits >> token_id & 1 and token_id not in forbidden]
    return candidates[drawn % len(candidates)]


def likeliest(entries: array[int], count: int, forbidden: Sequence[int] = ()) -> TokenLogprobs:
    """The most likely tokens after a context that are not forbidden. Many are equally likely."""
    weights = blake2b(entries.tobytes(), digest_size=VOCAB_SIZE).digest()
    ids = sorted((token for token in range(VOCAB_SIZE) if token not in forbidden), key=lambda token: -weights[token])
    logprobs = tuple((weights[token] - 256) / 32 for token in ids[:count])
    return TokenLogprobs(logprob=logprobs[0], top_ids=tuple(ids[:count]), top_logprobs=logprobs)


class SimulatedGuide:
    """A guide that allows about half of the vocabulary, different tokens after every output. Implements `TokenGuide`.

    Like a real one, it follows its request token by token, and fails on an output that it did not allow.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._outputs: list[int] = []

    def fresh(self) -> SimulatedGuide:
        """A copy that has not followed any output yet."""
        return SimulatedGuide(self._seed)

    def allowed(self, outputs: Sequence[int]) -> bytes:
        """See `TokenGuide.allowed`."""
        kept = min(len(outputs), len(self._outputs))
        assert self._outputs[:kept] == list(outputs[:kept]), "a guide was told other outputs than before"
        del self._outputs[kept:]
        for token_id in outputs[kept:]:
            assert self._mask() >> token_id & 1, f"token {token_id} was not allowed"
            self._outputs.append(token_id)
        return self._mask().to_bytes(-(-VOCAB_SIZE // 8), "little")

    def _mask(self) -> int:
        key = array("i", self._outputs).tobytes() + self._seed.to_bytes(8, "little")
        drawn = int.from_bytes(blake2b(key, digest_size=8).digest(), "little")
        return drawn & ((1 << VOCAB_SIZE) - 1) | 1 << drawn % VOCAB_SIZE


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpectedOutcome:
    """The outcome of a request without faults."""

    token_ids: tuple[int, ...]
    reason: FinishReason


def undisturbed_outcome(config: SchedulerConfig, request: Request) -> ExpectedOutcome:
    """Run one admissible request alone, without blocks, batches or faults."""
    limit = output_limit(config, request)
    if request.targets:
        return ExpectedOutcome(token_ids=request.targets, reason="length")
    if request.beams is not None:
        return _best_by_beams(request, request.beams, limit)
    entries = chain_entries(request.prompt_ids)
    tokens: list[int] = []
    guide = request.guide.fresh() if isinstance(request.guide, SimulatedGuide) else None
    while len(tokens) < limit:
        history = array("i", tokens).tobytes() if request.sampling.needs_history else b""
        if request.sampling.repetition_penalty != 1.0:
            latest = (*request.prompt_ids, *tokens)[-request.sampling.repetition_window :]
            history += array("i", sorted(set(latest))).tobytes()
        allowed = guide.allowed(tokens) if guide is not None else b""
        forbidden = request.stop_token_ids if len(tokens) < request.min_tokens else ()
        token = draw_token(entries, request.sampling, len(tokens), history, allowed, tuple(forbidden))
        tokens.append(token)
        if token in request.stop_token_ids:
            return ExpectedOutcome(token_ids=tuple(tokens), reason="stop")
        entries.append(chain_entry(entries[-1], token, len(entries)))
    return ExpectedOutcome(token_ids=tuple(tokens), reason="length")


def _best_by_beams(request: Request, search: BeamSearch, limit: int) -> ExpectedOutcome:
    """A beam search that computes every hypothesis from its beginning in every round."""
    beams: dict[tuple[int, ...], float] = {(): 0.0}
    ended: dict[tuple[int, ...], float] = {}
    for length in range(limit):
        forbidden = request.stop_token_ids if length < request.min_tokens else ()
        scores: dict[tuple[int, ...], float] = {}
        for tokens, total in beams.items():
            found = likeliest(chain_entries((*request.prompt_ids, *tokens)), search.num_beams + 1, tuple(forbidden))
            pairs = sorted(zip(found.top_ids, found.top_logprobs, strict=True))
            scores |= {(*tokens, token): total + logprob for token, logprob in pairs}
        beams = {}
        for tokens in sorted(scores, key=scores.__getitem__, reverse=True):
            if tokens[-1] not in request.stop_token_ids:
                beams[tokens] = scores[tokens]
                if len(beams) == search.num_beams:
                    break
            elif len(ended) < max(1, round(search.patience * search.num_beams)):
                ended[tokens] = scores[tokens]
        if len(ended) >= max(1, round(search.patience * search.num_beams)):
            break
    for tokens, total in beams.items():
        if len(ended) < search.num_beams:
            ended[tokens] = total

    def quality(tokens: tuple[int, ...]) -> float:
        num_said = len(tokens) - (tokens[-1] in request.stop_token_ids)
        if search.length_penalty is None:
            return ended[tokens] / max(1, num_said)
        return ended[tokens] / ((5 + num_said) / 6) ** search.length_penalty

    best = max(ended, key=quality)
    return ExpectedOutcome(token_ids=best, reason="stop" if best[-1] in request.stop_token_ids else "length")


def chain_entries(token_ids: Sequence[int]) -> array[int]:
    """The KV entries of a text from position 0 on, uint64."""
    entries = array("Q")
    previous = FIRST_ENTRY
    for position, token_id in enumerate(token_ids):
        previous = chain_entry(previous, token_id, position)
        entries.append(previous)
    return entries
