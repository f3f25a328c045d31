"""`shoal status`: what a running server is made of and how it fares."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

from shoal.cli.shared import options
from shoal.cli.shared.checked_command import examples

EXAMPLE = examples(
    "shoal status",
    "shoal status http://10.0.0.7:8000 --json",
    "shoal status --story 0",
)

_TIMEOUT_S = 10.0
_RATE_S = 1.0
"""Between the two looks that a rate is taken from."""
_USUAL = 0.1
"""Share by which steps vary on a machine that nothing is wrong with."""
_RATES = {"prompt_tokens": "prompt tokens/s", "generation_tokens": "output tokens/s", "rows": "rows/s"}
"""counters in /status, and what they are a second"""


def status(
    url: Annotated[str, typer.Argument(help="Address of the server.")] = "http://127.0.0.1:8000",
    api_key: Annotated[
        str | None, typer.Option(envvar="SHOAL_API_KEY", help="The key to send as a bearer token.")
    ] = None,
    story: Annotated[
        str | None,
        typer.Option(
            help="Show instead what happened lately to a replica (0, 1, ...) or to a request (named by its "
            "X-Request-Id).",
            metavar="REPLICA|REQUEST",
        ),
    ] = None,
    json: options.Json = False,
) -> None:
    """Show a running server's machines, workers, plan, links and rates. The exit status is 1 if it does not answer."""
    from shoal.cli.show.output import print_json

    if story is not None:
        _tell_story(story, _ask(url, api_key, "/status/story", {"of": story}, "entries"), as_json=json)
        return
    before_s, before = time.monotonic(), _ask(url, api_key)
    time.sleep(_RATE_S)
    after_s, after = time.monotonic(), _ask(url, api_key)
    for earlier, model in zip(before["models"], after["models"], strict=False):
        if "counters" in model and "counters" in earlier:  # both looks found it loaded
            model["rates"] = {
                name: (model["counters"][name] - earlier["counters"].get(name, 0)) / (after_s - before_s)
                for name in _RATES
                if name in model["counters"]
            }
    if json:
        print_json(after)
        return
    print(f"shoal {after['version']} at {url}")
    for model in after["models"]:
        _show(model)


def _tell_story(of: str, told: dict[str, Any], *, as_json: bool) -> None:
    """Line by line, the oldest first."""
    from shoal.cli.show.output import note, print_json

    entries = told["entries"]
    if as_json:
        print_json(told)
        return
    if not entries:
        note(f"nothing is known of {of}: it ended long ago, or it never existed")
    names_model = len({entry["model"] for entry in entries}) > 1
    for entry in entries:
        model = f" {entry['model']}" if names_model else ""
        where = "no replica" if entry["replica"] is None else f"replica {entry['replica']}"
        effects = f": {'; '.join(entry['effects'])}" if entry["effects"] else ""
        print(f"{entry['time']}{model} {where} {entry['event']}{effects}")


def _ask(
    url: str, api_key: str | None, path: str = "/status", query: Mapping[str, str] | None = None, part: str = "models"
) -> dict[str, Any]:
    """Raises WorkerLost, ConfigError."""
    import httpx

    from shoal.bench.server_answer import check_address, key_header, told_by
    from shoal.errors import ConfigError, WorkerLost

    check_address(url)
    headers = key_header(api_key)
    try:
        response = httpx.get(f"{url.rstrip('/')}{path}", params=query, headers=headers, timeout=_TIMEOUT_S)
    except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
        raise ConfigError(f"{url} is not the address of a server: {error}") from error
    except httpx.HTTPError as error:
        raise WorkerLost(f"no server answers at {url}: {error}") from error
    return told_by(response, url, part)


def _show(model: dict[str, Any]) -> None:
    """One model, for the person."""
    from rich.table import Table

    from shoal.cli.show.output import print_table

    if "plan" not in model:
        print(f"\n{model['name']} ({model['kind']}): {model.get('state', 'not loaded')}")
        return
    plan, counters, known = model["plan"], model["counters"], model.get("rates", {})
    rates = ", ".join(f"{known[name]:.1f} {what}" for name, what in _RATES.items() if name in known) or "no rates yet"
    print(f"\n{model['name']} ({model['kind']}, split {plan['split']}): {rates}")
    print(", ".join(f"{value} {name.replace('_', ' ')}" for name, value in counters.items() if name not in _RATES))
    table = Table()
    for column in ("machine", "worker", "state", "holds", "threads", "weights", "a step", "step time"):
        table.add_column(column, justify="left" if column in ("machine", "worker", "state") else "right")
    is_sharded = any(worker["shard"] for worker in plan["workers"])
    for worker in sorted(plan["workers"], key=lambda one: one.get("machine") or ""):
        replica = _at(model["replicas"], worker["replica"])
        stage = _at(replica.get("stages", ()), worker["stage"])
        table.add_row(
            worker.get("machine") or "here",
            _name(worker, is_sharded=is_sharded),
            replica.get("state", "") + (", planned anew" if replica.get("is_reduced") else ""),
            _holds(worker),
            str(worker["threads"]),
            f"{worker['weight_bytes'] / 1e6:.0f} MB",
            f"{stage['step_s'] * 1e3:.1f} ms" if stage.get("step_s") else "",
            _pace(stage["slowdown"]) if stage else "",
        )
    print_table(table, to_stderr=False)
    for machine in model.get("machines", ()):
        print(f"machine {machine['name']} {machine['state']}")
    for line in _links(plan):
        print(line)
    for heat in plan.get("experts", ()):
        print(heat_line(heat))


def _name(worker: Mapping[str, Any], *, is_sharded: bool) -> str:
    """A worker as plans call it."""
    name = f"replica {worker['replica']} stage {worker['stage']}"
    return f"{name} shard {worker['shard']}" if is_sharded else name


def heat_line(heat: Mapping[str, Any]) -> str:
    """Where the rows of a stage with experts go."""
    hot = ", ".join(f"{one['expert']} of layer {one['layer']} {one['share']:.1%}" for one in heat["hottest"])
    shares = ", ".join(f"shard {rank} {share:.0%}" for rank, share in enumerate(heat["shard_shares"]))
    where = f"; rows of experts: {shares}" if shares else ""
    return f"replica {heat['replica']} stage {heat['stage']}: hottest experts {hot}{where}"


def _pace(slowdown: float) -> str:
    """How the time of a stage's steps compares with what it was before."""
    if abs(slowdown - 1.0) < _USUAL:
        return "as usual"
    return f"{slowdown:.2f} x the usual"


def _at(told: Sequence[dict[str, Any]], index: int) -> dict[str, Any]:
    """Nothing where the server had no time to say it."""
    return told[index] if index < len(told) else {}


def _holds(worker: Mapping[str, Any]) -> str:
    for first, last, what in (("first_layer", "last_layer", "layers"), ("first_node", "last_node", "nodes")):
        if first in worker:
            return f"{what} {worker[first]}-{worker[last] - 1}"
    return ""


def _links(plan: Mapping[str, Any]) -> list[str]:
    """Between which machines hidden states go, and how."""
    stages: dict[tuple[int, int], set[str]] = defaultdict(set)
    for worker in plan["workers"]:
        stages[worker["replica"], worker["stage"]].add(worker.get("machine") or "here")
    lines: dict[str, None] = {}
    for (replica, stage), machines in stages.items():
        for one in sorted(machines):
            for other in sorted(stages.get((replica, stage + 1), ())):
                how = "shared memory" if one == other else f"TLS, hidden states in {plan.get('link_precision', 'fp32')}"
                lines[f"{one} -> {other}: {how}"] = None
    return list(lines)
