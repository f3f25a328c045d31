"""The smallest pieces into which a decoder's layers can be divided for tensor parallelism."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardAtoms:
    """Sizes of the divisible dimensions, and of the atoms in which they are divided."""

    num_kv_heads: int
    kv_heads_per_atom: int
    """KV heads of an atom; more than 1 if the queries of one KV head are not a whole number of quantization blocks."""
    intermediate_size: int
    """Columns of the MLP."""
    column_atom: int
    """Columns of an atom; the last atom may be smaller."""
    vocab_size: int
    """Rows of the embedding and of the head."""
    vocab_atom: int
    """Rows of the vocabulary in an atom; the last atom may be smaller."""
    num_experts: int = 0
    """Experts of a layer, which may be divided as whole experts instead of by columns; 0: there are none."""

    def dealing_experts(self) -> ShardAtoms:
        """The atoms for dividing by whole experts, which take the place of the columns."""
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
        """The most workers that can each have a piece of the MLP and of the vocabulary."""
        return min(self.num_column_atoms, self.num_vocab_atoms)

    @property
    def max_expert_shards(self) -> int:
        """The most workers that can each have an expert and a piece of the vocabulary."""
        return min(self.num_experts, self.num_vocab_atoms)
