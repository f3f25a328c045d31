"""`shoal drill`: take workers and machines of a running server away, and see whether pauses are what they should be."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from shoal.cli.shared import options
from shoal.cli.shared.checked_command import examples

EXAMPLE = examples(
    "shoal serve model.gguf --split dp=2 --allow-drill",
    "shoal drill http://127.0.0.1:8000 --all",
)


def drill(
    url: Annotated[str, typer.Argument(help="Address of the server, started with --allow-drill.")],
    every: Annotated[
        bool, typer.Option("--all", help="Take away every worker in turn, not only the first one of each replica.")
    ] = False,
    yes: Annotated[
        bool, typer.Option("--yes", help="Do not ask for confirmation before workers and machines are taken away.")
    ] = False,
    how: Annotated[
        str | None,
        typer.Option(
            help="kill ends workers, stop makes them hang, and cable lets nothing pass between a machine and any "
            "other. Default: all of these, one after the other.",
            metavar="kill|stop|cable",
        ),
    ] = None,
    worker_timeout: Annotated[
        float | None,
        typer.Option(min=0.1, help="The server's --worker-timeout, if it was started with one.", metavar="S"),
    ] = None,
    cable: Annotated[
        float | None,
        typer.Option(
            min=0.1,
            max=300.0,
            help="Seconds for which a cable stays pulled. Default: twice --worker-timeout and one second.",
            metavar="S",
        ),
    ] = None,
    inputs: Annotated[
        Path | None,
        typer.Option(
            help="Rows to send to a graph: an .npz file with an array for each input. Arrays of different numbers of "
            "rows are sent whole. Default: one made-up row.",
            metavar="FILE",
        ),
    ] = None,
    api_key: Annotated[
        str | None, typer.Option(envvar="SHOAL_API_KEY", help="The key to send as a bearer token.")
    ] = None,
    json: options.Json = False,
) -> None:
    """Predict the pause that the loss of each worker and machine would cause, cause it, and compare the two.

    What is taken away comes back before the next loss. Machines are those of a Ray cluster. The drill keeps requests of
    its own in progress; other clients see the same pauses. The exit status is 1 if a request of the drill was lost.
    """
    from shoal.bench.drill.run import DrillPlan, check_drilled, run_drill
    from shoal.cli.graphs.files import read_arrays
    from shoal.cli.show.drill_output import drill_dict, print_drill, print_row
    from shoal.cli.show.output import print_json
    from shoal.errors import ConfigError
    from shoal.executor.remote.strikes import STRIKE_KINDS, StrikeKind

    hows: tuple[StrikeKind, ...] = tuple([one for one in STRIKE_KINDS if how in (None, one)])
    if not hows:
        raise ConfigError(f"--how must be kill, stop or cable, not {how!r}")
    check_drilled(url, api_key)
    if not yes:
        if not sys.stdin.isatty():
            raise ConfigError(
                "there is no terminal on which to ask whether workers may be taken away: allow it with --yes"
            )
        typer.confirm(
            f"Workers and machines of {url} will be taken away; clients see pauses. Go on?", abort=True, err=True
        )
    plan = DrillPlan(
        every=every,
        hows=hows,
        worker_timeout_s=worker_timeout,
        cable_s=cable,
        inputs=None if inputs is None else read_arrays(inputs, ()),
    )
    report = run_drill(url, plan, api_key=api_key, tell=(lambda row: None) if json else print_row)
    if json:
        print_json(drill_dict(report))
    else:
        print_drill(report)
    if report.num_lost:
        raise typer.Exit(1)
