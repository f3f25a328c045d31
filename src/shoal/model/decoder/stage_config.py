"""What one stage holds and how much of everything it may use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from shoal.core.plan.language import ShardPart
from shoal.model.attention.kv_storage import KvType, kv_dtype
from shoal.model.weights import Precision
from shoal.protocol.messages import LoadStage


@dataclass(frozen=True, slots=True, kw_only=True)
class StageConfig:
    """What one stage holds and how much of everything it may use."""

    first_layer: int
    last_layer: int
    """exclusive"""
    precision: Precision
    threads: int
    num_blocks: int
    """KV blocks"""
    block_size: int
    """tokens in a KV block"""
    max_step_tokens: int
    """rows of the largest flat batch"""
    max_context: int
    """longest sequence in tokens"""
    exact_activations: bool = False
    """at least 15 bits an activation in the place of 8: slower, and closer to what fp32 would say"""
    part: ShardPart | None = None
    """of every matrix; None: all of it"""
    native: bool | None = None
    """None takes the native layers where the extension is installed, False the ONNX form"""
    isa: str = ""
    """one of the instruction sets that the processor has, to be forced; empty for the best"""

    @classmethod
    def of(cls, load: LoadStage) -> StageConfig:
        """What a worker is told to load."""
        return cls(
            first_layer=load.first_layer,
            last_layer=load.last_layer,
            precision=cast(Precision, load.precision),
            threads=load.threads,
            num_blocks=load.num_blocks,
            block_size=load.block_size,
            max_step_tokens=load.max_step_tokens,
            max_context=load.max_context,
            exact_activations=load.exact_activations,
            part=ShardPart(kv_heads=load.kv_heads, columns=load.columns, vocabulary=load.vocabulary)
            if load.num_shards > 1
            else None,
        )

    @property
    def kv_dtype(self) -> KvType:
        """What keys and values are held in."""
        return kv_dtype(self.precision, exact_activations=self.exact_activations)

    @property
    def num_positions(self) -> int:
        """Of the longest sequence that the KV cache can hold. A file may claim a context of any length, for which
        rotary tables would be made."""
        return min(self.max_context, self.num_blocks * self.block_size)

    @property
    def first_token_id(self) -> int:
        """Token of the first vocabulary row."""
        return self.part.vocabulary[0] if self.part else 0
