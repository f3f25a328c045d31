"""Messages between the head and the workers of a language model.

Every step is described in full (tokens, positions, block tables, sampling). Workers keep no state about requests except
the KV blocks, so no decision is lost with a worker. Integer arrays are sent as little-endian int32 bytes.

Shapes: T tokens in the flat batch, B sequences, M block-table width, R rows to sample, V vocabulary, S snapshots,
C blocks to copy.
"""

from __future__ import annotations

from typing import NewType

import msgspec

from shoal.protocol.hidden_codec import LinkPrecision
from shoal.protocol.stage_config import StageConfig
from shoal.protocol.worker_messages import FileState, Generation, WorkerLoad

StepId = NewType("StepId", int)


class Sampling(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """How the next token is sampled from the logits; OpenAI's and vLLM's parameters of the same names."""

    temperature: float = 1.0
    """Temperature of the softmax; 0 is greedy, and so are values that float32 rounds to 0."""
    top_p: float = 1.0
    """Nucleus mass in (0, 1]."""
    top_k: int = 0
    """Keep the k most likely tokens; 0 keeps all."""
    min_p: float = 0.0
    """Drop tokens less likely than min_p times the most likely one; in [0, 1]."""
    presence_penalty: float = 0.0
    """Subtracted once from the logit of every token already generated; in [-2, 2]."""
    frequency_penalty: float = 0.0
    """Subtracted per occurrence from the logit of every token already generated; in [-2, 2]."""
    repetition_penalty: float = 1.0
    """Divides positive logits of tokens in prompt or output, and multiplies negative ones; > 0."""
    repetition_window: int = 0
    """The number of latest tokens to which the repetition penalty applies; 0: all."""
    logit_bias: tuple[tuple[int, float], ...] = ()
    """(token, value added to its logit), each token once."""
    seed: int = 0
    """Key of the random stream; with the token index it determines every draw. 0 <= seed < 2**63."""
    first_timestamp: int = 0
    """If above 0, this token and all later ones are timestamps of speech: one of them is sampled if all together are
    more likely than any other token. Source: Whisper, whisper/decoding.py, ApplyTimestampRules."""
    num_logprobs: int | None = None
    """None: no log-probabilities; n >= 0: the chosen token's and the n most likely tokens' log-probabilities."""

    @property
    def is_greedy(self) -> bool:
        """Whether the most likely token is always taken; float32 rounds half of its smallest number to 0."""
        return self.temperature <= 2.0**-150

    @property
    def needs_history(self) -> bool:
        """Whether the row must contain the tokens generated so far."""
        return self.presence_penalty != 0.0 or self.frequency_penalty != 0.0


class SampleRow(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """One row of the flat batch whose logits are wanted."""

    row: int
    """Index into the flat batch, 0 <= row < T."""
    token_index: int
    """Index of the token within its request's output; keys the random stream."""
    sampling: Sampling
    history: bytes = b""
    """int32 output tokens so far, only if `sampling.needs_history`."""
    target: int | None = None
    """Teacher forcing: take this token instead of sampling one (perplexity, verification, echo)."""
    want_logits: bool = False
    """Whether to return the row's raw logits as well, fp32 [V] (verification)."""
    repeated: bytes = b""
    """int32 tokens to which `sampling.repetition_penalty` applies, each once; only if it is not 1."""
    forbidden: tuple[int, ...] = ()
    """Tokens that must not be sampled, because they would end an output too early."""
    is_guided: bool = False
    """Whether `allowed` follows in the step's StepMasks."""
    allowed: bytes = b""
    """One bit for each token that may be sampled, starting with the lowest bit of the first byte; tokens beyond its end
    are not allowed. Empty: all are."""
    want_hidden: bool = False
    """Whether to return the row's hidden state after the final norm and sample no token, for embeddings of texts."""


class Encoding(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """An encoder's input for one clip, and the slot for its outputs."""

    slot: int
    num_rows: int
    """Rows of the encoder's output."""
    features: bytes
    """A log-mel spectrogram, fp32 [frames, mels]."""


class Alignment(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """A request to report the attention of some rows over a clip."""

    first_row: int
    num_rows: int
    slot: int
    """The slot with the encoder's outputs for the clip."""
    num_positions: int
    """The leading positions of the clip over which attention is reported; later ones are padding."""
    heads: tuple[tuple[int, int], ...]
    """(layer, head) of each reported head, ordered by layer."""

    @property
    def num_bytes(self) -> int:
        """Bytes of the answer, see `StepResult.alignment`."""
        return 2 * len(self.heads) * self.num_rows * self.num_positions


class PictureRows(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """Consecutive rows of the flat batch with vectors of a picture instead of their tokens' embeddings."""

    first_row: int
    """Index into the flat batch."""
    num_rows: int
    vectors: bytes
    """fp32 [rows, (1 + K) hidden size]: a row's embedding, then what is added to its hidden state after each of the
    model's first K layers."""


class Step(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag=1):
    """One iteration of a replica, sent to every worker: prefill chunks and decode tokens in one flat batch."""

    step_id: StepId
    generation: Generation
    token_ids: bytes
    """int32 [T]: the tokens."""
    positions: bytes
    """int32 [T]: the position of each token within its sequence."""
    query_starts: bytes
    """int32 [B+1]: sequence b has the rows query_starts[b]:query_starts[b+1]."""
    context_lens: bytes
    """int32 [B]: tokens in the KV cache of each sequence after this step."""
    block_tables: bytes
    """int32 [B, M]: KV blocks of each sequence, padded with -1."""
    samples: tuple[SampleRow, ...]
    state_slots: bytes = b""
    """int32 [B, 2], for recurrent layers: the slot from which each sequence's state is read before its rows (-1: zeros,
    at position 0 and only there), and its own slot, which holds the state afterwards. Empty: no such layers."""
    state_saves: bytes = b""
    """int32 [S, 3], in this order: a sequence, the number of its rows after which its state is copied, and the slot to
    which it is copied. No row is computed before all states have been read."""
    memory_slots: bytes = b""
    """int32 [B]: the slot with the encoder's outputs for each sequence; -1: none. Empty: the model has no encoder."""
    encodings: tuple[Encoding, ...] = ()
    """Clips to encode before any row is computed."""
    adapters: bytes = b""
    """int32 [B]: the index of each sequence's adapter among those of the model, -1: none. Empty: no sequence has
    one."""
    block_copies: bytes = b""
    """int32 [C, 2], in this order: a block, and the block to which it is copied before any row is computed."""
    alignment: Alignment | None = None
    pictures: tuple[PictureRows, ...] = ()
    turns: bytes = b""
    """int32 [T, 3]: rotary positions in time, height and width of each row. Empty: plain positions."""
    ends_seen: bytes = b""
    """int32 [T]: the end of the positions that each row attends over. Empty: up to its own position."""

    @classmethod
    def without_contents(cls, step_id: StepId, generation: Generation) -> Step:
        """A step that no worker reads."""
        nothing = b""
        return cls(
            step_id=step_id,
            generation=generation,
            token_ids=nothing,
            positions=nothing,
            query_starts=nothing,
            context_lens=nothing,
            block_tables=nothing,
            samples=(),
        )

    @property
    def num_tokens(self) -> int:
        return len(self.token_ids) // 4

    @property
    def num_sequences(self) -> int:
        return len(self.context_lens) // 4

    @property
    def num_rows(self) -> int:
        """Rows of hidden states that go from stage to stage: those of tokens, then the encoder's outputs."""
        return self.num_tokens + sum(encoding.num_rows for encoding in self.encodings)


class StepMasks(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag=12):
    """The masks of a step's guided rows. They are computed while workers compute the step, and sent to the workers of
    the last stage after it, if it has guided rows."""

    step_id: StepId
    generation: Generation
    allowed: tuple[bytes, ...]
    """`SampleRow.allowed` of each guided sample, in order."""


class TokenLogprobs(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """Log-probabilities (natural) at one output position, among allowed tokens, after penalties and before temperature
    and truncation."""

    logprob: float
    """The log-probability of the chosen token."""
    top_ids: tuple[int, ...] = ()
    """The most likely tokens, most likely first."""
    top_logprobs: tuple[float, ...] = ()
    """Their log-probabilities."""


NO_TOKEN = -1
"""In the place of a token: what the model has computed of its row is no number, so nothing can be drawn."""


class SampledToken(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """The answer to one SampleRow."""

    token_id: int
    logprobs: TokenLogprobs | None = None
    logits: bytes = b""
    """fp32 [V], only with `want_logits`."""
    hidden: bytes = b""
    """fp32 [D], only with `want_hidden`; the token then has no meaning."""


class StepResult(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag=2):
    """The last stage's answer to a step, one SampledToken per SampleRow in order."""

    step_id: StepId
    generation: Generation
    tokens: tuple[SampledToken, ...]
    compute_s: tuple[float, ...] = ()
    """Seconds that each stage spent on the step, without waiting for the stage before it."""
    wait_s: tuple[float, ...] = ()
    """Those of `compute_s` spent in collectives, including waiting for other shards; empty, or one per stage."""
    alignment: bytes = b""
    """fp16 [heads, rows, positions]: attention of the rows for which the step requested it."""


class AdapterFile(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """A low-rank adapter of a language model, as a file on this machine."""

    name: str
    """The name by which requests select it."""
    path: str
    """A directory written by PEFT, or a GGUF file."""
    files: tuple[FileState, ...]
    is_merged: bool = False
    """Whether it is merged into the model's weights at loading; then requests cannot select it."""


class LoadStage(WorkerLoad, frozen=True, kw_only=True, array_like=True, tag=3):
    """The first message to a worker of a language model: what to load."""

    stage: StageConfig
    num_layers: int
    """Layers of the whole model, by which a stage knows whether it is at an end."""
    num_shards: int
    link_precision: LinkPrecision = "fp32"
    """The precision of the hidden states that it sends to the next stage."""
    cpu_quota: float | None = None
    """See `WorkerPlacement.cpu_quota`. The head enforces it; the worker must not use it up by busy waiting."""
    keep_weights: bool = True
    """Whether to keep packed weights in the user's cache, and to use those that are there."""
    adapters: tuple[AdapterFile, ...] = ()
    """The model's adapters; steps refer to those that are not merged by their index, in this order."""

    @property
    def sources(self) -> tuple[int, ...]:
        """Stages that feed this one."""
        return (self.stage_index - 1,) if self.stage_index else ()


class ExpertLoad(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag=11):
    """The work of a worker's experts since it loaded, which it reports now and then."""

    generation: Generation
    num_rows: int
    """Rows of all steps."""
    busy_s: float
    """Seconds that these took, without waiting for other shards."""
    expert_rows: tuple[tuple[int, ...], ...]
    """[layer of the stage][expert]: rows that chose the expert, on whichever shard; empty for layers without
    experts."""
