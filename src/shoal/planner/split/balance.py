"""Balancing: how many layers each stage of a pipeline gets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise

from shoal.core.plan.language import Block
from shoal.errors import ConfigError

PROMPT_TOKENS_PER_OUTPUT = 2.0
"""The load for which stages are balanced. Source: the benchmarks' workload, 128 prompt and 64 output tokens."""


def stage_costs(blocks: Sequence[Block], prompt_tokens_per_output: float = PROMPT_TOKENS_PER_OUTPUT) -> list[float]:
    """The cost of each block in floating-point operations per token that passes the pipeline.

    Layers compute every token, the head only those whose logits are wanted: one in prompt_tokens_per_output + 1.

    Args:
        blocks: embedding, layers and head.
        prompt_tokens_per_output: prompt tokens per output token of the load.
    """
    costs = [block.flops_per_token for block in blocks]
    costs[-1] /= prompt_tokens_per_output + 1
    return costs


def last_cut(blocks: Sequence[Block]) -> int:
    """The last layer with which a stage may begin. All later ones must stay with the layers before them."""
    return max(layer for layer, block in enumerate(blocks[1:-1]) if block.can_begin)


def check_first_layers(blocks: Sequence[Block], layers: Sequence[int]) -> None:
    """Check that no stage begins with a layer that must stay with those before it. Raises ConfigError.

    Args:
        blocks: embedding, layers and head.
        layers: the number of layers of each stage.
    """
    last = last_cut(blocks)
    if wrong := [first for first in accumulate(layers[:-1]) if first > last]:
        raise ConfigError(
            f"a stage cannot begin with layer {wrong[0]}, which attends over keys of earlier layers; the last "
            f"layer that a stage can begin with is {last}"
        )


def balance_layers(
    block_costs: Sequence[float],
    num_stages: int,
    *,
    speeds: Sequence[float] | None = None,
    last_cut: int | None = None,
) -> tuple[int, ...]:
    """Layers per stage such that the most expensive stage is as cheap as possible, then all as equal as possible.

    Exact: dynamic programming over the first remaining cut, once for the largest stage cost, then once for the sum of
    squares among the splits that reach it.

    Args:
        block_costs: costs of the embedding (always in the first stage), each layer, and the head (always in the last).
        num_stages: the number of stages; each gets at least one layer.
        speeds: the speed of each stage's workers, in any unit; None: all are equal.
        last_cut: the last layer with which a stage may begin; None: any.

    Raises:
        ConfigError: there are more stages than layers with which a stage may begin.
    """
    num_layers = len(block_costs) - 2
    num_places = num_layers if last_cut is None else last_cut + 1
    if num_stages > num_places:
        what = (
            f"{num_layers} layers" if num_places == num_layers else f"{num_places} layers that a stage can begin with"
        )
        raise ConfigError(
            f"{num_stages} pipeline stages are more than the model's {what}; give at most pp={num_places}"
        )
    before = list(accumulate(block_costs[1:-1], initial=0.0))

    def cost(stage: int, first: int, last: int) -> float:
        """The cost of a stage with the layers first:last."""
        if first >= num_places:
            return float("inf")
        ends = (block_costs[0] if first == 0 else 0.0) + (block_costs[-1] if last == num_layers else 0.0)
        return (before[last] - before[first] + ends) / (1.0 if speeds is None else speeds[stage])

    largest, _ = _best_cuts(num_layers, num_stages, cost, max)
    limit = largest * (1 + 1e-9)

    def squared(stage: int, first: int, last: int) -> float:
        own = cost(stage, first, last)
        return own**2 if own <= limit else float("inf")

    _, layers = _best_cuts(num_layers, num_stages, squared, lambda one, rest: one + rest)
    return layers


def observed_speeds(block_costs: Sequence[float], layers: Sequence[int], stage_s: Sequence[float]) -> list[float]:
    """The speed of each stage's workers, in cost per second, from the time that its layers took.

    Args:
        block_costs: see `balance_layers`.
        layers: the number of layers of each stage.
        stage_s: seconds of each stage for the same step.
    """
    spans = pairwise(accumulate(layers, initial=0))
    last_layer = len(block_costs) - 2
    blocks = [(0 if first == 0 else first + 1, last + 2 if last == last_layer else last + 1) for first, last in spans]
    return [sum(block_costs[first:last]) / seconds for (first, last), seconds in zip(blocks, stage_s, strict=True)]


def _best_cuts(
    num_layers: int,
    num_stages: int,
    cost: Callable[[int, int, int], float],
    combine: Callable[[float, float], float],
) -> tuple[float, tuple[int, ...]]:
    """The division into contiguous stages with the least combined cost, and that cost. Ties: the longer first stage."""
    last_stage = num_stages - 1
    best = {first: (cost(last_stage, first, num_layers), (num_layers - first,)) for first in range(num_layers)}
    for num_behind in range(1, num_stages):
        shorter, stage = best, last_stage - num_behind
        best: dict[int, tuple[float, tuple[int, ...]]] = {}
        for first in range(num_layers - num_behind):
            best[first] = min(
                (
                    (
                        combine(cost(stage, first, cut), shorter[cut][0]),
                        (cut - first, *shorter[cut][1]),
                    )
                    for cut in range(num_layers - num_behind, first, -1)
                ),
                key=lambda option: option[0],
            )
    return best[0]
