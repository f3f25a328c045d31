"""`shoal serve` for several language models: each in a server of its own, behind one address."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path

import typer

from shoal.cli.language.plan_book import LanguagePlanBook
from shoal.cli.language.serve import default_name
from shoal.cli.shared import option_values
from shoal.cli.shared.log import announce, write_line
from shoal.cli.shared.server_options import ServerOptions
from shoal.cli.show.output import describe_drain
from shoal.errors import ConfigError, WorkerLost
from shoal.server.assembly import AppOptions
from shoal.server.http.draining import Drain
from shoal.server.http.serve import bind, serve_app
from shoal.server.switch.app import create_switch_app
from shoal.server.switch.server_process import ServerProcess
from shoal.server.switch.switchboard import Switchboard

_OWN = frozenset(
    {
        "models",
        "config",
        "host",
        "port",
        "api_key",
        "api_key_file",
        "allow_drill",
        "allowed_host",
        "cors_origin",
        "tls_cert",
        "tls_key",
        "drain_timeout",
        "no_access_log",
        "max_loaded",
        "idle_unload",
        "no_web",
    }
)
"""Options of the address, which the models' servers are not given."""
_OF_ONE = ("name", "plan", "demo", "lora", "merge_lora", "mmproj")
"""Options that mean one model."""


def load_and_serve(context: typer.Context, models: Sequence[str], server: ServerOptions) -> None:
    """Serve models, and start and end their servers as calls want them, until a signal comes.

    Raises:
        ConfigError: an option makes no sense, two models have the same name, or the address cannot be had.
        WorkerLost: none of the models can be loaded.
    """
    option_values.refuse(context, _OF_ONE, "several models")
    places = _named(models)
    given = list(_forwarded(context))
    key = secrets.token_urlsafe(32)

    async def start(name: str) -> ServerProcess:
        arguments = [places[name], "--name", name, "--no-access-log", "--no-web", *given]
        return await ServerProcess.start(arguments, api_key=key, on_line=write_line)

    said = context.params
    switchboard = Switchboard([*places], start, max_loaded=said["max_loaded"], idle_s=said["idle_unload"])
    guarded = AppOptions(
        api_key=server.api_key,
        allowed_hosts=server.allowed_hosts,
        cors_origins=server.cors_origins,
        page=server.page(LanguagePlanBook(None)),  # the models' own servers know how they were planned
    )
    app = create_switch_app(switchboard, server_key=key, options=guarded)
    if server.tracing is not None:
        server.tracing.trace_calls(app, hands_on=True)
    drain: Drain = app.state.drain
    with bind(server.host, server.port) as sock:
        serve_app(
            app,
            sock,
            tls=server.tls,
            on_ready=lambda url: announce(f"serving {', '.join(places)} at {url}"),
            drain_timeout_s=server.drain_timeout_s,
            on_drain=lambda num_open: announce(describe_drain(num_open, server.drain_timeout_s)),
        )
    if drain.reason is not None:
        raise WorkerLost(drain.reason)


def _named(models: Sequence[str]) -> dict[str, str]:
    """Models by the names that clients ask for. Raises ConfigError: two have the same, or a file is missing."""
    places: dict[str, str] = {}
    for model in models:
        if not model.startswith(("pkg:", "hf:")) and not Path(model).exists():
            raise ConfigError(f"model {model!r} does not exist")
        name = default_name(model)
        if name in places:
            raise ConfigError(f"{places[name]} and {model} are both called {name}: rename one of them")
        places[name] = model
    return places


def _forwarded(context: typer.Context) -> Iterator[str]:
    """The options of the command that a model's server is given as well."""
    for parameter in context.command.params:
        name = parameter.name or ""
        if name in _OWN or not option_values.is_given(context, name):
            continue
        value, option = context.params[name], parameter.opts[0]
        for one in value if isinstance(value, list | tuple) else [value]:
            if one is True:
                yield option
            elif one is not None and one is not False:
                yield f"{option}={one}"
