"""`shoal simulate`: what a cluster would do under some traffic, without the cluster."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from shoal.cli.shared import options
from shoal.cli.shared.checked_command import examples

EXAMPLE = examples(
    "shoal simulate config.json --cluster machines.yaml --traffic poisson:20",
    "shoal simulate hf:org/name --cluster machines.yaml --traffic AzureLLMInferenceTrace_conv.csv --faults faults.yaml",
    "shoal simulate model.gguf --split pp=2 --traffic closed:16 --json",
)

_MOST_TOKENS = 10_000_000
"""Of a prompt or an output, as in traces: no model has such a context."""


def simulate(
    context: typer.Context,
    model: options.LanguageModel,
    traffic: Annotated[
        str,
        typer.Option(
            help="A trace file (Azure LLM inference, BurstGPT, Mooncake, or CSV with "
            "at_s,prompt_tokens,output_tokens); poisson:RATE for RATE requests a second at random times; or "
            "closed:N for N clients that each wait for their answers.",
            metavar="FILE|poisson:RATE|closed:N",
        ),
    ],
    cluster: options.Cluster = None,
    faults: Annotated[
        Path | None,
        typer.Option(help="A YAML file that says which machine is killed, hangs, is cut off or returns, and when."),
    ] = None,
    days: Annotated[
        float | None,
        typer.Option(
            help="For how many days requests arrive. Default: a whole trace, or ten minutes of other traffic."
        ),
    ] = None,
    sample: Annotated[
        float | None,
        typer.Option(
            help="Simulate every fault and its recovery in full, but only as much of the steady states between "
            "them as it takes to know the mean latency to PERCENT with 95 % confidence. Needs poisson:RATE "
            "and described machines. Default: everything is simulated.",
            metavar="PERCENT",
        ),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Draw latencies, load and losses over time into this .png, .svg or .pdf file.")
    ] = None,
    clients_here: Annotated[
        bool,
        typer.Option(
            "--clients-here",
            help="Assume that clients run on the server's machine and use its cores, as `shoal bench serve` does "
            "there. It has an effect only where the cluster is this machine.",
        ),
    ] = False,
    seed: Annotated[int, typer.Option(help="Seed of made-up arrivals; the same seed gives the same output.")] = 0,
    split: options.Split = "auto",
    plan: options.PlanFile = None,
    objective: options.Objective = "throughput",
    streams: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Requests in progress that --split auto plans for. Default: as many as the traffic is expected "
            "to keep.",
            rich_help_panel=options.PLANNING,
            metavar="N",
        ),
    ] = None,
    prompt_tokens: Annotated[
        int, typer.Option(min=1, max=_MOST_TOKENS, help="Prompt tokens of each made-up request.", metavar="N")
    ] = 128,
    output_tokens: Annotated[
        int, typer.Option(min=1, max=_MOST_TOKENS, help="Output tokens of each made-up request.", metavar="N")
    ] = 64,
    precision: options.Precision = "auto",
    link_precision: options.LinkPrecision = "auto",
    threads: options.Threads = None,
    max_seqs: options.MaxSeqs = 32,
    kv_memory: options.KvMemory = None,
    max_context: options.MaxContext = None,
    refresh: options.Refresh = False,
    json: options.Json = False,
) -> None:
    """Run the production scheduler, router and recovery in virtual time, over workers as fast as measured or described.

    MODEL may consist of its settings alone: a config.json, or hf:org/name, of which only that file is downloaded.
    """
    from shoal.cli.language.launch_config import language_config
    from shoal.cli.show.output import measuring, print_json, progress_bar
    from shoal.cli.show.simulation_output import note_late_faults, print_simulation, simulation_dict
    from shoal.forecast.service_check import check_in_service
    from shoal.forecast.simulate import TrafficSpec, read_fault_file, simulate
    from shoal.forecast.speed_check import check_speeds
    from shoal.forecast.workload import expected_traffic, plan_for_traffic

    spec = TrafficSpec(text=traffic, prompt_tokens=prompt_tokens, output_tokens=output_tokens, days=days, seed=seed)
    described = read_fault_file(faults)
    sampling = None if sample is None else spec.sampling(sample)
    if sampling is None:
        spec.check_size()
    if plot is not None:
        from shoal.cli.show.simulation_plot import check_plot

        check_plot(plot, is_sampled=sampling is not None)
    expected = expected_traffic(spec)
    config = language_config(
        context,
        model,
        settings_suffice=True,
        streams=streams or 1,
        prompt_tokens=expected.prompt_tokens,
        output_tokens=expected.output_tokens,
    )
    with measuring(quiet=json) as tell:
        planned = plan_for_traffic(config, None if streams else expected, tell)
        if not refresh:
            planned = check_speeds(planned, tell)
        planned = check_in_service(planned, model, tell)
    planned = replace(planned, plan=replace(planned.plan, model=model))
    with progress_bar("simulated seconds") as update:
        result = simulate(
            planned,
            spec.open(),
            faults=described,
            seed=seed,
            clients_here=clients_here,
            sampling=sampling,
            on_progress=lambda now_s: update(int(now_s), int(spec.until_s)),
        )
    note_late_faults(described, result.outcome.duration_s)
    if json:
        print_json(simulation_dict(planned, result))
    else:
        print_simulation(planned, result)
    if plot is not None:
        from shoal.cli.show.simulation_plot import plot_simulation

        plot_simulation(result, described, plot)
