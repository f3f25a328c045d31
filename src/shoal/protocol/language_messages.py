"""What the head and the workers of a language model say to each other.

A step is described in full every time (tokens, positions, block tables, sampling). Workers keep no state about
requests, only the KV blocks themselves, so a lost worker takes no decision with it. Integer arrays travel as
little-endian int32 bytes.

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
    """How the next token is drawn from the logits; OpenAI's and vLLM's parameters of the same names."""

    temperature: float = 1.0
    """0 is greedy, and so is what float32 takes for 0."""
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
    """Divides the logits above 0 of tokens that the prompt or the output has, and multiplies those below; above 0."""
    repetition_window: int = 0
    """Of how many latest tokens those are; 0: all."""
    logit_bias: tuple[tuple[int, float], ...] = ()
    """Tokens and what their logits are added, each token once."""
    seed: int = 0
    """Key of the random stream; with the token index it determines every draw. 0 <= seed < 2**63."""
    first_timestamp: int = 0
    """Where above 0, this token and those behind it are times of speech: one of them is drawn where all together are
    more likely than any other token. Source: Whisper, whisper/decoding.py, ApplyTimestampRules."""
    num_logprobs: int | None = None
    """None: no log-probabilities; n >= 0: the chosen token's and the n most likely tokens' log-probabilities."""

    @property
    def is_greedy(self) -> bool:
        """Whether the most likely token is always taken. Half of float32's smallest number is rounded to 0."""
        return self.temperature <= 2.0**-150

    @property
    def needs_history(self) -> bool:
        """Whether the tokens generated so far must travel with the row."""
        return self.presence_penalty != 0.0 or self.frequency_penalty != 0.0


class SampleRow(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """One row of the flat batch whose logits are wanted."""

    row: int
    """Index into the flat batch, 0 <= row < T."""
    token_index: int
    """Index of the token to be drawn within its request's output; keys the random stream."""
    sampling: Sampling
    history: bytes = b""
    """int32 output tokens so far, only where `sampling.needs_history`."""
    target: int | None = None
    """Teacher forcing: take this token instead of drawing one (perplexity, verification, echo)."""
    want_logits: bool = False
    """Also return the row's raw logits, fp32 [V] (verification)."""
    repeated: bytes = b""
    """int32 tokens that `sampling.repetition_penalty` is for, each once; only where it is not 1."""
    forbidden: tuple[int, ...] = ()
    """Tokens that may not be drawn here: those that would end an output too early."""
    is_guided: bool = False
    """Whether `allowed` follows, in the step's StepMasks."""
    allowed: bytes = b""
    """Tokens that may be drawn, a bit each, the first in the lowest bit of the first byte, and no token beyond its end;
    empty: any."""
    want_hidden: bool = False
    """Return the row's hidden state behind the final norm and draw no token: for vectors of texts."""


class Encoding(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """What an encoder takes of one clip, and the slot for what it gives."""

    slot: int
    num_rows: int
    """Hidden states that the encoder gives."""
    features: bytes
    """fp32 [frames, mels] of a log-mel spectrogram"""


class Alignment(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """Some rows of which it is wanted where in a clip their layers look."""

    first_row: int
    num_rows: int
    slot: int
    """that holds what the encoder gave for the clip"""
    num_positions: int
    """leading ones of the clip, among which the attention counts: those behind are padding"""
    heads: tuple[tuple[int, int], ...]
    """layer and head of each, by layer"""

    @property
    def num_bytes(self) -> int:
        """Of the answer, see `StepResult.alignment`."""
        return 2 * len(self.heads) * self.num_rows * self.num_positions


class PictureRows(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """Consecutive rows of the flat batch that have vectors of their own in the place of their tokens' embeddings."""

    first_row: int
    """Index into the flat batch."""
    num_rows: int
    vectors: bytes
    """fp32 [rows, (1 + K) hidden size]: a row's embedding, then what is added to its hidden state behind each of the
    model's first K layers"""


class Step(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag=1):
    """One iteration of a replica: prefill chunks and decode tokens in one flat batch. Sent to every worker."""

    step_id: StepId
    generation: Generation
    token_ids: bytes
    """int32 [T]"""
    positions: bytes
    """int32 [T], position of each token within its sequence"""
    query_starts: bytes
    """int32 [B+1], sequence b owns rows query_starts[b]:query_starts[b+1]"""
    context_lens: bytes
    """int32 [B], tokens in the KV cache of each sequence once this step has run"""
    block_tables: bytes
    """int32 [B, M], -1 beyond a sequence's last block"""
    samples: tuple[SampleRow, ...]
    state_slots: bytes = b""
    """int32 [B, 2], of recurrent layers: the slot that each sequence's state is read from before its rows (-1: it is
    zeros, at position 0 and only there), and its own slot, which holds it afterwards; empty: the model has none"""
    state_saves: bytes = b""
    """int32 [S, 3]: sequence, how many of its rows are behind it, and the slot that its state is copied to then; in
    this order. No row is computed before all states have been read"""
    memory_slots: bytes = b""
    """int32 [B], of a model with an encoder: the slot that holds what it gave for the sequence; -1: none. Empty: the
    model has none"""
    encodings: tuple[Encoding, ...] = ()
    """what is to be encoded before any row is computed"""
    adapters: bytes = b""
    """int32 [B], number of each sequence's adapter among those of the model, -1: none; empty: no sequence has one"""
    block_copies: bytes = b""
    """int32 [C, 2]: a block, and the one that its content is copied to before any row is computed; in this order"""
    alignment: Alignment | None = None
    pictures: tuple[PictureRows, ...] = ()
    turns: bytes = b""
    """int32 [T, 3], the positions in time, height and width that each row turns by; empty: by its own position"""
    ends_seen: bytes = b""
    """int32 [T], the position before which each row sees; empty: its own is the last that it sees"""

    @classmethod
    def without_contents(cls, step_id: StepId, generation: Generation) -> Step:
        """One that no worker reads."""
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
        """Hidden states that go from stage to stage: of tokens, and behind them what an encoder gave."""
        return self.num_tokens + sum(encoding.num_rows for encoding in self.encodings)


class StepMasks(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag=12):
    """What the guided rows of a step may draw: sent to the workers of the last stage right behind the step, where that
    has guided rows, and found out while they compute it."""

    step_id: StepId
    generation: Generation
    allowed: tuple[bytes, ...]
    """`SampleRow.allowed` of each sample that is guided, in order"""


class TokenLogprobs(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """Natural-log probabilities at one output position, after penalties and among the tokens that are allowed, before
    temperature and truncation."""

    logprob: float
    """of the chosen token"""
    top_ids: tuple[int, ...] = ()
    top_logprobs: tuple[float, ...] = ()
    """most likely first"""


class SampledToken(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """The answer to one SampleRow."""

    token_id: int
    logprobs: TokenLogprobs | None = None
    logits: bytes = b""
    """fp32 [V], only where `want_logits`"""
    hidden: bytes = b""
    """fp32 [D], only where `want_hidden`; the token stands for nothing then"""


class StepResult(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag=2):
    """The last stage's answer to a step, one SampledToken per SampleRow in order."""

    step_id: StepId
    generation: Generation
    tokens: tuple[SampledToken, ...]
    compute_s: tuple[float, ...] = ()
    """seconds spent on the step, one per stage (waiting for the stage before it excluded)"""
    wait_s: tuple[float, ...] = ()
    """of those, seconds in collectives, waiting for other shards included; empty, or one per stage"""
    alignment: bytes = b""
    """fp16 [heads, rows, positions], attention of the rows that the step asked about"""


class AdapterFile(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """A low-rank adapter of a language model as it lies on this machine."""

    name: str
    """by which requests ask for it"""
    path: str
    """a directory that PEFT has written, or a GGUF file"""
    files: tuple[FileState, ...]
    is_merged: bool = False
    """Whether it is added to the model's weights as they are loaded; then no request asks for it."""


class LoadStage(WorkerLoad, frozen=True, kw_only=True, array_like=True, tag=3):
    """The first message to a worker of a language model: what to load."""

    stage: StageConfig
    num_layers: int
    """of the whole model, so that both ends are known"""
    num_shards: int
    link_precision: LinkPrecision = "fp32"
    """of the hidden states that it sends to the next stage"""
    cpu_quota: float | None = None
    """see core.plan.ShardPlan; the head sees to it, the worker must not use it up waiting"""
    keep_weights: bool = True
    """keep packed weights under the user's cache, and use those that are there"""
    adapters: tuple[AdapterFile, ...] = ()
    """of the model; those that are not merged have the numbers that steps name, in order"""

    @property
    def sources(self) -> tuple[int, ...]:
        """Stages that feed this one."""
        return (self.stage_index - 1,) if self.stage_index else ()


class ExpertLoad(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag=11):
    """What a worker whose layers have experts has done since it loaded; it says so now and then while it works."""

    generation: Generation
    num_rows: int
    """of all steps"""
    busy_s: float
    """seconds that these took, without waiting for other shards"""
    expert_rows: tuple[tuple[int, ...], ...]
    """of each layer of the stage, the rows that chose each expert, whichever shard has it; none of layers without"""
