"""The plan for a language model: which worker runs which layers, or which part of them. Plain data."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from shoal.core.plan.placement import WorkerPlacement
from shoal.protocol.hidden_codec import LinkPrecision
from shoal.protocol.stage_config import Precision, ShardPart


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """The planner's smallest unit: the embedding, one decoder layer or the head."""

    name: str
    """`embedding`, `layer.N` or `head`."""
    weight_bytes: int
    """Resident bytes at the plan's precision."""
    flops_per_token: float
    """Floating-point operations (2 per multiply-add) for one token, without attention over the context."""
    kv_bytes_per_token: int
    """Bytes of KV cache that one token of context takes in this block."""
    output_bytes_per_token: int
    """Bytes per token that cross a cut placed after this block."""
    keeps_clips: bool = False
    """Whether its state is an encoder's outputs for a clip instead of a recurrent layer's state."""
    state_bytes: int = 0
    """Bytes of one sequence's recurrent state, or of a snapshot of it."""
    expert_bytes: int = 0
    """The part of `weight_bytes` that belongs to experts."""
    expert_share: float = 1.0
    """The share of the experts that compute a token, 0 to 1."""
    can_begin: bool = True
    """Whether a stage may begin with this block. A layer that attends over keys of other layers stays with them."""
    same_weights_as: str = ""
    """The block that shares these weights, which a worker with both holds once; empty: none."""

    def read_bytes(self, num_rows: int) -> float:
        """Expected bytes of weights that a step of so many rows reads, if each row's experts are chosen at random."""
        unread = self.expert_bytes * (1.0 - self.expert_share) ** num_rows
        return self.weight_bytes - unread


def stage_blocks(blocks: Sequence[Block], first_layer: int, last_layer: int) -> Sequence[Block]:
    """The blocks of a stage with the layers first:last, including the embedding in the first stage and the head in the
    last."""
    last = last_layer + 1 if last_layer < len(blocks) - 2 else len(blocks)
    return blocks[first_layer + 1 if first_layer else 0 : last]


def held_bytes(blocks: Iterable[Block]) -> int:
    """Resident bytes of a worker's blocks; shared weights count once."""
    blocks = list(blocks)
    names = {block.name for block in blocks}
    return sum(block.weight_bytes for block in blocks if block.same_weights_as not in names)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardPlan(WorkerPlacement):
    """One worker: a stage's layers, or a part of each of them."""

    part: ShardPart
    weight_bytes: int
    kv_bytes: int
    state_bytes: int = 0
    """Bytes of the slots for recurrent state."""
    process_bytes: int = 0
    """Bytes of the process beside weights and KV: Python, sessions and working memory of steps. What a forked process
    shares with its parent is not included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StagePlan:
    """Contiguous layers and the workers that compute them together."""

    first_layer: int
    last_layer: int
    """The first layer after the stage."""
    precision: Precision
    """Precision of the matrices."""
    shards: tuple[ShardPlan, ...]
    """The stage's workers in the order of their ranks; one if the stage is not split further."""

    @property
    def num_layers(self) -> int:
        return self.last_layer - self.first_layer


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaPlan:
    """One replica: a pipeline of stages. The first stage has the embedding, the last one the head."""

    stages: tuple[StagePlan, ...]
    num_blocks: int
    """KV blocks of every stage."""
    num_states: int = 0
    """Slots for recurrent state of every stage; 0: the model has no recurrent layers."""

    @property
    def shards(self) -> tuple[ShardPlan, ...]:
        """All workers, stage by stage, rank by rank."""
        return tuple(shard for stage in self.stages for shard in stage.shards)


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictedSpeed:
    """The predicted speed of a plan under the load that it was made for."""

    streams: int
    """Concurrent requests."""
    prompt_tokens: int
    """Prompt tokens of each request."""
    output_tokens: int
    """Output tokens of each request."""
    output_tokens_per_s: float
    """Tokens per second of all streams together."""
    ttft_s: float
    """Seconds to the first token."""
    tpot_s: float
    """Seconds per output token of one stream, after the first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The complete plan for a language model."""

    model: str
    """The model as the user named it."""
    split: str
    """The canonical split, such as `dp=2,pp=15:15,tp=3:1`; `1`: none."""
    precision: Precision
    """The precision that the user asked for. Each stage has its own."""
    block_size: int
    """Tokens in a KV block."""
    max_context: int
    """Tokens of the longest sequence, prompt and output together."""
    max_step_tokens: int
    """Rows of the largest step."""
    max_seqs: int
    """Sequences of one replica that may run at once."""
    replicas: tuple[ReplicaPlan, ...]
    notes: tuple[str, ...] = ()
    """What a user should know about this plan, a line each."""
    has_memories: bool = False
    """Whether state slots hold an encoder's outputs instead of states of recurrent layers."""
    exact_activations: bool = False
    """Whether activations have 15 bits instead of 8 in products with quantized weights, which is slower."""
    link_precision: LinkPrecision = "fp32"
    """Precision of hidden states between machines; inside a machine they stay fp32."""
    shape: str = ""
    """A description of the model, for the user and to recognize whether a stored plan belongs to it."""
    predicted: PredictedSpeed | None = None
    """The speed that `auto` predicted; None if the user gave the split."""
    forking_bytes: int = 0
    """Bytes of the process from which workers are forked and with which they share Python; 0: none is forked."""

    @property
    def shards(self) -> tuple[ShardPlan, ...]:
        """All workers, replica by replica, stage by stage, rank by rank."""
        return tuple(shard for replica in self.replicas for shard in replica.shards)

    @property
    def num_workers(self) -> int:
        return len(self.shards)
