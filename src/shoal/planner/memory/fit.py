"""Whether a plan fits into memory, and what would help if it does not."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from shoal.core.plan.language import Block, Plan
from shoal.errors import CapacityError
from shoal.planner.memory.plan_memory import needed_memory
from shoal.planner.split.balance import balance_layers, last_cut

_MIB, _GIB = 1 << 20, 1 << 30


def check_memory(plan: Plan, *, blocks: Sequence[Block], available_bytes: int, shares_weights: bool) -> None:
    """Check weights, KV memory and processes of all workers against this machine's memory.

    A plan with workers on other machines is not checked, because those check their own memory when workers are placed.

    Args:
        plan: the plan, with the bytes of each worker.
        blocks: embedding, layers and head of the whole model, at the plan's precision.
        available_bytes: memory that can be used without swapping.
        shares_weights: whether workers with the same weights map one kept copy of them.

    Raises:
        CapacityError: the plan does not fit. The message says what is needed, what is free, and what would help.
    """
    if any(shard.machine for shard in plan.shards):
        return
    needed = needed_memory(plan, shares_weights=shares_weights, tied_bytes=tied_bytes(blocks))
    if needed.total <= available_bytes:
        return
    states = f"{format_bytes(needed.state_bytes)} for recurrent states, " if needed.state_bytes else ""
    raise CapacityError(
        f"--split {plan.split} needs {format_bytes(needed.total)} of memory ({format_bytes(needed.weight_bytes)} for "
        f"weights, {format_bytes(needed.kv_bytes)} for KV, {states}{format_bytes(needed.process_bytes)} for "
        f"{plan.num_workers} "
        f"{'process' if plan.num_workers == 1 else 'processes'}), but {format_bytes(available_bytes)} are free; "
        f"{_way_out(plan, blocks, available_bytes)}"
    )


def tied_bytes(blocks: Sequence[Block]) -> int:
    """Bytes of the embedding if the head is the same matrix; otherwise 0. `blocks`: those of the whole model."""
    return blocks[-1].weight_bytes if blocks[-1].same_weights_as else 0


def count_workers_needed(
    blocks: Sequence[Block], *, kv_tokens: int, available_bytes: int, num_states: int = 0
) -> int | None:
    """The fewest pipeline stages such that each fits into `available_bytes`; None if a single layer does not fit.

    Args:
        blocks: embedding, layers and head.
        kv_tokens: tokens of context whose KV every stage holds.
        available_bytes: memory of each worker.
        num_states: slots for recurrent states in every stage.
    """
    sizes = [
        block.weight_bytes + kv_tokens * block.kv_bytes_per_token + num_states * block.state_bytes for block in blocks
    ]
    at_least = -(-sum(sizes) // max(1, available_bytes))
    last = last_cut(blocks)
    for num_stages in range(max(1, at_least), last + 2):
        if _largest_stage(sizes, balance_layers(sizes, num_stages, last_cut=last)) <= available_bytes:
            return num_stages
    return None


def _largest_stage(sizes: Sequence[int], layers: tuple[int, ...]) -> int:
    cuts = [1]
    for num_layers in layers:
        cuts.append(cuts[-1] + num_layers)
    cuts[0], cuts[-1] = 0, len(sizes)
    return max(sum(sizes[first:last]) for first, last in pairwise(cuts))


def _way_out(plan: Plan, blocks: Sequence[Block], available_bytes: int) -> str:
    kv_tokens = plan.replicas[0].num_blocks * plan.block_size
    num_workers = count_workers_needed(
        blocks, kv_tokens=kv_tokens, available_bytes=available_bytes, num_states=plan.replicas[0].num_states
    )
    if num_workers is None:
        return (
            "no pipeline split makes a worker's share fit; cut the layers themselves (tp=2 or more), "
            "or choose a smaller --precision or less --kv-memory"
        )
    if num_workers == 1:
        return "1 worker with this much memory would do (--split 1)"
    return (
        f"{num_workers} workers with this much memory each would do (pp={num_workers}), "
        "or choose a smaller --precision or less --kv-memory"
    )


def format_bytes(num_bytes: int) -> str:
    """A size for users: `1.50 GiB`, or `0.50 MiB` below one GiB."""
    return f"{num_bytes / _GIB:.2f} GiB" if num_bytes >= _GIB else f"{num_bytes / _MIB:.2f} MiB"
