"""Building a runnable plan from a candidate: whole numbers of heads, columns and rows, cores, and KV blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from shoal.core.plan.language import (
    Block,
    Plan,
    PredictedSpeed,
    ReplicaPlan,
    ShardPlan,
    StagePlan,
    held_bytes,
    stage_blocks,
)
from shoal.core.plan.placement import WorkerPlacement
from shoal.core.plan.shard_atoms import ShardAtoms
from shoal.core.plan.share_rounding import ranges_of, round_shares
from shoal.core.plan.state_room import num_state_slots, state_notes
from shoal.errors import CapacityError
from shoal.planner.choice.candidate import Candidate, ChosenStage
from shoal.planner.choice.costs.model_sizes import vocabulary_units
from shoal.planner.memory.plan_memory import KV_SHARE_OF_FREE_MEMORY, default_kv_tokens
from shoal.planner.predict.workload import Workload
from shoal.planner.split.shares import attention_notes
from shoal.planner.split.split_text import describe
from shoal.protocol.stage_config import ExpertSpan, Precision, ShardPart

BlocksOf = Callable[[ShardPart, Precision], Sequence[Block]]
"""Gives the blocks (embedding, layers, head) of a shard with this part of each layer, at a precision."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Limits that every replica of the plan must meet."""

    block_size: int
    """Tokens in a KV block."""
    max_context: int
    """Tokens of the longest sequence."""
    max_step_tokens: int
    max_seqs: int
    kv_memory_bytes: int | None = None
    """KV bytes of all replicas together; None: half of the memory that the weights leave."""
    least_kv_tokens: int = 0
    """Tokens of context that the expected load needs at once; used if `kv_memory_bytes` is None."""


def build_plan(
    candidate: Candidate,
    *,
    model: str,
    shape: str,
    precision: Precision,
    atoms: ShardAtoms,
    workload: Workload,
    places: Sequence[Sequence[WorkerPlacement]],
    blocks_of: BlocksOf,
    limits: Limits,
) -> Plan:
    """Make the plan of a candidate.

    Args:
        candidate: the chosen candidate.
        model: the model as the user named it.
        shape: see `Plan.shape`.
        precision: the precision as the user asked for it.
        atoms: the atoms of the whole model.
        workload: the load that the candidate was chosen for.
        places: the workers' places, for each class of the candidate's fleet, in the order in which they are used.
        blocks_of: gives the exact sizes of a shard.
        limits: the limits of every replica.

    Raises:
        CapacityError: a worker's memory leaves no room for one KV block.
    """
    free = [iter(own) for own in places]
    builder = _PlanBuilder(candidate, atoms, blocks_of, free)
    replicas = tuple(
        builder.replica(replica, limits, share=1 / len(candidate.replicas)) for replica in candidate.replicas
    )
    predicted = candidate.prediction
    return Plan(
        model=model,
        split=describe(replicas),
        precision=precision,
        block_size=limits.block_size,
        max_context=limits.max_context,
        max_step_tokens=limits.max_step_tokens,
        max_seqs=limits.max_seqs,
        replicas=replicas,
        notes=(
            *dict.fromkeys(note for replica in replicas for note in _notes(replica)),
            *state_notes([blocks_of(_whole(atoms), precision)], replicas[0].num_states),
        ),
        shape=shape,
        predicted=PredictedSpeed(
            streams=workload.streams,
            prompt_tokens=workload.prompt_tokens,
            output_tokens=workload.output_tokens,
            output_tokens_per_s=predicted.output_tokens_per_s,
            ttft_s=predicted.ttft_s,
            tpot_s=predicted.tpot_s,
        ),
    )


class _PlanBuilder:
    def __init__(
        self, candidate: Candidate, atoms: ShardAtoms, blocks_of: BlocksOf, free: Sequence[Iterator[WorkerPlacement]]
    ) -> None:
        self._classes = candidate.fleet.classes
        self._atoms, self._blocks_of, self._free = atoms, blocks_of, free

    def replica(self, chosen: Sequence[ChosenStage], limits: Limits, *, share: float) -> ReplicaPlan:
        """Build one replica. `share`: its part of the total KV memory that was asked for."""
        num_states = num_state_slots(self._whole_blocks(chosen[0]), limits.max_seqs)
        stages = [self._with_states(self._stage(stage), num_states) for stage in chosen]
        num_blocks = self._count_blocks(chosen, stages, limits, share)
        kv_tokens = num_blocks * limits.block_size
        return ReplicaPlan(
            stages=tuple(self._with_kv(stage, kv_tokens) for stage in stages),
            num_blocks=num_blocks,
            num_states=num_states,
        )

    def _stage(self, stage: ChosenStage) -> StagePlan:
        shards: list[ShardPlan] = []
        for index, part in zip(stage.group.members, self._parts(stage), strict=True):
            place = next(self._free[index])
            shards.append(
                ShardPlan(
                    part=part,
                    **place.placement(),
                    weight_bytes=held_bytes(self._own_blocks(stage, part)),
                    kv_bytes=0,
                )
            )
        return StagePlan(
            first_layer=stage.first_layer,
            last_layer=stage.last_layer,
            precision=stage.group.precision,
            shards=tuple(shards),
        )

    def _parts(self, stage: ChosenStage) -> tuple[ShardPart, ...]:
        atoms, shares = self._atoms, stage.shares
        if shares is None:
            return (_whole(atoms),)
        num_units, unit_rows = vocabulary_units(atoms)
        vocabulary = shares.vocabulary
        if not any(vocabulary):  # inner stages hold no vocabulary, but their shards name the rows that would be theirs
            vocabulary = round_shares(num_units, shares.columns, at_least=1)
        deals_experts = stage.group.deals_experts
        columns = round_shares(atoms.num_column_atoms, shares.columns) if deals_experts else shares.columns
        experts = [((ExpertSpan(*span),),) if deals_experts else () for span in ranges_of(shares.columns)]
        spans = zip(
            ranges_of(shares.heads, atom=atoms.kv_heads_per_atom, total=atoms.num_kv_heads),
            ranges_of(columns, atom=atoms.column_atom, total=atoms.intermediate_size),
            ranges_of(vocabulary, atom=unit_rows, total=atoms.vocab_size),
            experts,
            strict=True,
        )
        return tuple(
            ShardPart(kv_heads=heads, columns=columns, vocabulary=rows, experts=experts)
            for heads, columns, rows, experts in spans
        )

    def _own_blocks(self, stage: ChosenStage | StagePlan, part: ShardPart) -> Sequence[Block]:
        """The blocks that a shard of a stage holds."""
        precision = stage.group.precision if isinstance(stage, ChosenStage) else stage.precision
        return stage_blocks(self._blocks_of(part, precision), stage.first_layer, stage.last_layer)

    def _whole_blocks(self, stage: ChosenStage) -> Sequence[Block]:
        return self._blocks_of(_whole(self._atoms), stage.group.precision)

    def _with_states(self, stage: StagePlan, num_states: int) -> StagePlan:
        def state_bytes(shard: ShardPlan) -> int:
            return num_states * sum(block.state_bytes for block in self._own_blocks(stage, shard.part))

        return replace(stage, shards=tuple(replace(shard, state_bytes=state_bytes(shard)) for shard in stage.shards))

    def _kv_bytes_per_token(self, stage: StagePlan, shard: ShardPlan) -> int:
        return sum(block.kv_bytes_per_token for block in self._own_blocks(stage, shard.part))

    def _with_kv(self, stage: StagePlan, kv_tokens: int) -> StagePlan:
        shards = tuple(
            replace(shard, kv_bytes=kv_tokens * self._kv_bytes_per_token(stage, shard)) for shard in stage.shards
        )
        return replace(stage, shards=shards)

    def _count_blocks(
        self, chosen: Sequence[ChosenStage], stages: Sequence[StagePlan], limits: Limits, share: float
    ) -> int:
        """The number of KV blocks that the worker with the least room can hold, at most what all sequences can use."""
        enough = limits.max_seqs * -(-limits.max_context // limits.block_size)
        if limits.kv_memory_bytes is None:
            wanted = default_kv_tokens(limits.max_seqs, limits.max_context, at_least=limits.least_kv_tokens)
            enough = min(enough, -(-wanted // limits.block_size))
        workers = [
            (
                self._classes[index].memory_bytes - shard.weight_bytes - shard.state_bytes,
                self._kv_bytes_per_token(stage, shard),
            )
            for chosen_stage, stage in zip(chosen, stages, strict=True)
            for index, shard in zip(chosen_stage.group.members, stage.shards, strict=True)
        ]
        tokens = [rest * KV_SHARE_OF_FREE_MEMORY / per_token for rest, per_token in workers if per_token]
        if limits.kv_memory_bytes is not None:
            in_all = sum(per_token for _, per_token in workers)
            tokens = [limits.kv_memory_bytes * share / in_all] if in_all else []
        affordable = int(min(tokens, default=enough * limits.block_size) // limits.block_size)
        if affordable < 1:
            if limits.kv_memory_bytes is None:
                raise CapacityError("the weights leave no room for a single KV block; use a smaller --precision")
            needed = sum(per_token for _, per_token in workers) * limits.block_size / share
            raise CapacityError(
                f"{limits.kv_memory_bytes} bytes of KV memory are too few for a block of {limits.block_size} "
                f"tokens; give at least {round(needed)} with --kv-memory"
            )
        return min(enough, affordable)


def _notes(replica: ReplicaPlan) -> Iterator[str]:
    for stage in replica.stages:
        yield from attention_notes([shard.part for shard in stage.shards])


def _whole(atoms: ShardAtoms) -> ShardPart:
    return ShardPart(
        kv_heads=(0, atoms.num_kv_heads), columns=(0, atoms.intermediate_size), vocabulary=(0, atoms.vocab_size)
    )
