"""A plan: which worker runs which layers, or which part of them. Plain data, made by the planner."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from shoal.core.plan.placement import WorkerPlacement
from shoal.protocol.hidden_codec import LinkPrecision


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """The planner's atom: an embedding, one decoder layer or the head."""

    name: str
    """`embedding`, `layer.N` or `head`"""
    weight_bytes: int
    """resident bytes at the plan's precision"""
    flops_per_token: float
    """floating-point operations (2 per multiply-add) for one token, attention over the context excluded"""
    kv_bytes_per_token: int
    """bytes of KV cache that one token of context takes in this block"""
    output_bytes_per_token: int
    """bytes that cross a cut placed after this block, per token"""
    expert_bytes: int = 0
    """those of `weight_bytes` that are experts'"""
    expert_share: float = 1.0
    """part of the experts that a token goes through"""
    same_weights_as: str = ""
    """name of a block whose weights these are, held once by a worker that has both; empty: none"""

    def read_bytes(self, num_rows: int) -> float:
        """Weights that a step of so many rows reads, if each row's experts are any of them."""
        unread = self.expert_bytes * (1.0 - self.expert_share) ** num_rows
        return self.weight_bytes - unread


def held_bytes(blocks: Iterable[Block]) -> int:
    """Resident bytes of a worker's blocks."""
    blocks = list(blocks)
    names = {block.name for block in blocks}
    return sum(block.weight_bytes for block in blocks if block.same_weights_as not in names)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardPart:
    """Which part of every matrix of a stage one shard holds, as [first, last) ranges.

    Embedding and head by vocabulary rows, attention by whole KV-head groups (a KV head and the query heads that
    read it), the MLP by columns. Empty ranges are allowed for KV heads only: that shard has no attention.
    """

    kv_heads: tuple[int, int]
    columns: tuple[int, int]
    vocabulary: tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardPlan(WorkerPlacement):
    """One worker: a stage's layers, or a part of each of them."""

    part: ShardPart
    weight_bytes: int
    kv_bytes: int
    process_bytes: int = 0
    """what its process takes beside weights and KV: Python, sessions, the memory that steps work on"""


@dataclass(frozen=True, slots=True, kw_only=True)
class StagePlan:
    """Contiguous layers and the workers that compute them together."""

    first_layer: int
    last_layer: int
    """exclusive"""
    precision: str
    """of its matrices: auto | fp32 | int8 | int4"""
    shards: tuple[ShardPlan, ...]
    """one where the stage is not split further; the order is that of the ranks in the stage's group"""

    @property
    def num_layers(self) -> int:
        return self.last_layer - self.first_layer


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaPlan:
    """A pipeline of stages that together hold one whole model. The first owns the embedding, the last the head."""

    stages: tuple[StagePlan, ...]
    num_blocks: int
    """KV blocks, the same number in every stage"""

    @property
    def shards(self) -> tuple[ShardPlan, ...]:
        """All workers, stage by stage, rank by rank."""
        return tuple(shard for stage in self.stages for shard in stage.shards)


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictedSpeed:
    """What a plan is expected to reach under the load it was made for."""

    streams: int
    """requests that are always under way"""
    prompt_tokens: int
    """of each request"""
    output_tokens: int
    """of each request"""
    output_tokens_per_s: float
    """of all streams together"""
    ttft_s: float
    """time to first token"""
    tpot_s: float
    """time per output token of one stream, after the first"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The whole decision."""

    model: str
    """as the user named it"""
    split: str
    """canonical split, such as `dp=2,pp=15:15,tp=3:1`; `1` for none"""
    precision: str
    """auto | fp32 | int8 | int4, as the user asked for; stages say their own"""
    block_size: int
    """tokens in a KV block"""
    max_context: int
    """longest sequence, prompt and output together, in tokens"""
    max_step_tokens: int
    """rows of the largest flat batch"""
    max_seqs: int
    """sequences of one replica that may run at once"""
    replicas: tuple[ReplicaPlan, ...]
    notes: tuple[str, ...] = ()
    """what a user should know about this plan, a line each"""
    exact_activations: bool = False
    """activations keep at least 15 bits where quantized weights meet them, not 8: slower, for verification"""
    link_precision: LinkPrecision = "fp32"
    """of hidden states between stages on different machines; inside a machine they stay fp32"""
    shape: str = ""
    """what the model looks like, for a person and to tell whether a stored plan belongs to a model"""
    predicted: PredictedSpeed | None = None
    """None where the split was said by hand"""

    @property
    def shards(self) -> tuple[ShardPlan, ...]:
        """All workers, replica by replica, stage by stage, rank by rank."""
        return tuple(shard for replica in self.replicas for shard in replica.shards)

    @property
    def num_workers(self) -> int:
        return len(self.shards)
