"""`shoal verify` for a language model: tokens and logits of the same prompts, split and whole."""

from __future__ import annotations

from dataclasses import replace

from shoal.bench.generation import FinishedRequest
from shoal.cli.language.loading import load_planned, plan_for
from shoal.cli.shared.agreement import Agreement
from shoal.cli.show.output import progress_bar
from shoal.config import DevicesConfig, LaunchConfig, PlanningConfig
from shoal.launch.language.planning import PlannedModel, compute_exactly, plan_model
from shoal.planner.files.plan_data import plan_dict
from shoal.verify.language import (
    EXACT_TOLERANCE,
    HALF_TOLERANCE,
    LINK_TOLERANCE,
    LOGIT_TOLERANCE,
    SHARD_TOLERANCE,
    Verification,
    compare,
    greedy_with_logits,
)

_PROMPTS = (
    "The capital of France is",
    "def fibonacci(n):\n    ",
    "Water boils at a temperature of",
    "Once upon a time, in a small village by the sea, there lived",
    "The three primary colors are",
    "In 1969, the first human beings",
    "To bake bread, you first need to mix flour, water, salt and yeast. Then",
    "1, 1, 2, 3, 5, 8,",
)


def verify_language(config: LaunchConfig, *, output_tokens: int, quiet: bool) -> Agreement:
    """Compare greedy answers to prompts of our own. Raises ShoalError.

    Args:
        config: of the split to check.
        output_tokens: of each answer, at most.
        quiet: print nothing of plans and measurements.
    """
    planned = plan_for(config, quiet=quiet, way_out="")
    is_sharded = any(len(stage.shards) > 1 for replica in planned.plan.replicas for stage in replica.stages)
    has_devices = any(shard.device is not None for shard in planned.plan.shards)  # which never round activations
    planned = compute_exactly(planned) if is_sharded or has_devices else planned
    split_results, chosen = _answers(planned, output_tokens, quiet=quiet)
    whole = replace(
        config,
        split="1",
        plan_file=None,
        planning=PlanningConfig(),
        threads=planned.plan.replicas[0].shards[0].threads,  # a process that computes keeps its number of threads
        exact_activations=is_sharded or has_devices,
        devices=DevicesConfig(),
    )
    whole_results, _ = _answers(plan_model(whole), output_tokens, quiet=quiet)
    tolerance = (SHARD_TOLERANCE if is_sharded else LOGIT_TOLERANCE)[config.precision]
    tie_tolerance = SHARD_TOLERANCE[config.precision] if is_sharded else EXACT_TOLERANCE
    link_precision = planned.plan.link_precision
    has_halves = any(shard.device is not None and shard.device.precision == "fp16" for shard in planned.plan.shards)
    lossy = max(LINK_TOLERANCE.get(link_precision, 0.0), HALF_TOLERANCE * has_halves)
    result = compare(whole_results, split_results, max(tolerance, lossy), max(tie_tolerance, lossy))
    how = (
        ", fp16 on devices" * has_halves
        + ", exact activations" * is_sharded
        + f", {link_precision} between machines" * (link_precision != "fp32")
    )
    return Agreement(
        agrees=result.agrees,
        figures={
            "agrees": result.agrees,
            "token_agreement": result.token_agreement,
            "num_ties": result.num_ties,
            "num_mismatches": result.num_mismatches,
            "max_logit_difference": result.max_logit_difference,
            "tolerance": result.tolerance,
            "exact_activations": is_sharded,
            "link_precision": link_precision,
            "num_prompts": result.num_prompts,
            "num_tokens": result.num_tokens,
            "plan": chosen,
        },
        summary=_summary(result, how),
    )


def _answers(
    planned: PlannedModel, output_tokens: int, *, quiet: bool
) -> tuple[list[FinishedRequest], dict[str, object]]:
    """The answers to all prompts, and the plan as plain data."""
    with load_planned(planned, quiet=quiet) as loaded, progress_bar(f"split {planned.plan.split}") as update:
        prompts = [loaded.tokenizer.encode(text) for text in _PROMPTS]
        done = 0

        def count(_: FinishedRequest) -> None:
            nonlocal done
            done += 1
            update(done, len(prompts))

        concurrency = len(loaded.plan.replicas)
        results = greedy_with_logits(
            loaded.engine,
            prompts,
            output_tokens=output_tokens,
            concurrency=concurrency,
            num_adapters=len(loaded.adapters),
            on_finished=count,
        )
        return results, plan_dict(loaded.plan)


def _summary(result: Verification, how: str) -> str:
    """In one line. `how`: what was computed otherwise than usual."""
    ties = f", {result.num_ties} runs parted where two tokens are equally likely" if result.num_ties else ""
    return (
        f"{'agrees' if result.agrees else 'MISMATCH'}: {result.num_equal_tokens} of {result.num_tokens} tokens equal "
        f"over {result.num_prompts} prompts{ties}, largest logit difference {result.max_logit_difference:.2g} "
        f"(tolerance {result.tolerance:g}{how})"
    )
