"""Into what a decoder's layers can be cut for tensor parallelism: the model says it, the planner uses it."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardAtoms:
    """Sizes of what is cut, and the smallest pieces that may be cut off."""

    num_kv_heads: int
    kv_heads_per_atom: int
    """more than 1 where one KV head's queries are not a whole number of quantization blocks"""
    intermediate_size: int
    """columns of the MLP"""
    column_atom: int
    """the last one may be shorter"""
    vocab_size: int
    """rows of the embedding and of the head"""
    vocab_atom: int
    """the last one may be shorter"""
    num_experts: int = 0
    """of a layer, which may be dealt out whole in the place of columns; 0: there are none"""

    def dealing_experts(self) -> ShardAtoms:
        """The same where whole experts are dealt out: they take the columns' place."""
        return replace(self, intermediate_size=self.num_experts, column_atom=1)

    @property
    def num_kv_atoms(self) -> int:
        return -(-self.num_kv_heads // self.kv_heads_per_atom)

    @property
    def num_column_atoms(self) -> int:
        return -(-self.intermediate_size // self.column_atom)

    @property
    def num_vocab_atoms(self) -> int:
        return -(-self.vocab_size // self.vocab_atom)

    @property
    def max_shards(self) -> int:
        """Workers that can have a piece of the MLP and of the vocabulary each."""
        return min(self.num_column_atoms, self.num_vocab_atoms)

    @property
    def max_expert_shards(self) -> int:
        """Workers that can have an expert and a piece of the vocabulary each."""
        return min(self.num_experts, self.num_vocab_atoms)
