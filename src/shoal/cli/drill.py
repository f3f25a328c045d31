"""`shoal drill`: take workers of a running server away, and see whether the pauses are what they should be."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from shoal.cli.shared import options

EXAMPLE = (
    "Example: shoal serve model.gguf --split dp=2 --allow-drill   and then   shoal drill http://127.0.0.1:8000 --all"
)


def drill(
    url: Annotated[str, typer.Argument(help="Address of the server, started with --allow-drill.")],
    every: Annotated[
        bool, typer.Option("--all", help="Take every worker in turn, instead of the first one of each replica.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before workers are taken away.")] = False,
    how: Annotated[
        str | None,
        typer.Option(
            help="kill: the worker is gone; stop: it hangs. Default: one after the other.", metavar="kill|stop"
        ),
    ] = None,
    worker_timeout: Annotated[
        float | None,
        typer.Option(min=0.1, help="The server's --worker-timeout, where it was given one.", metavar="S"),
    ] = None,
    api_key: Annotated[
        str | None, typer.Option(envvar="SHOAL_API_KEY", help="The key to send as a bearer token.")
    ] = None,
    json: options.Json = False,
) -> None:
    """Foretell the pause that the loss of each worker would cause, take it away, compare, and see it come back.

    The drill keeps streams of its own under way; other clients see the same pauses. Exit status 1 if a request of the
    drill was lost.
    """
    from shoal.bench.drill.pauses import STRIKES, Strike
    from shoal.bench.drill.run import check_drilled, run_drill
    from shoal.cli.show.drill_output import drill_dict, print_drill, print_row
    from shoal.cli.show.output import print_json
    from shoal.errors import ConfigError

    hows: list[Strike] = [one for one in STRIKES if how in (None, one)]
    if not hows:
        raise ConfigError(f"--how is kill or stop, not {how!r}")
    check_drilled(url, api_key)
    if not yes:
        if not sys.stdin.isatty():
            raise ConfigError("nobody can be asked here whether workers may be taken away: say so with --yes")
        typer.confirm(f"Workers of {url} will be taken away; clients see pauses. Go on?", abort=True, err=True)
    report = run_drill(
        url,
        every=every,
        hows=hows,
        api_key=api_key,
        worker_timeout_s=worker_timeout,
        tell=(lambda row: None) if json else print_row,
    )
    if json:
        print_json(drill_dict(report))
    else:
        print_drill(report)
    if report.num_lost:
        raise typer.Exit(1)
