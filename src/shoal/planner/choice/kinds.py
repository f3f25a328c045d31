"""Kinds of splits: one word that describes a plan."""

from __future__ import annotations

from typing import Literal

Kind = Literal["single", "replicas", "pipeline", "tensor", "mixed"]
KINDS: tuple[Kind, ...] = ("single", "replicas", "pipeline", "tensor", "mixed")
"""The kinds, simplest first: one worker; whole copies, each on one worker; stages of one worker each; one group of
shards; anything else."""


def kind_of_split(*, num_replicas: int, is_cut: bool, is_sharded: bool) -> Kind:
    """The kind of a split. `is_cut`: replicas have several stages. `is_sharded`: stages have several shards."""
    if num_replicas > 1:
        return "mixed" if is_cut or is_sharded else "replicas"
    if is_cut:
        return "mixed" if is_sharded else "pipeline"
    return "tensor" if is_sharded else "single"
