"""`serve --demo` and `--allow-drill`: remove a worker or a machine, to see that the server continues."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from shoal.errors import ConfigError
from shoal.executor.remote.strikes import SIGNALS, Strike
from shoal.server.http.health.probes import Status
from shoal.server.web.questions import KillBody, StrikeBody


@dataclass(frozen=True, slots=True, kw_only=True)
class Victim:
    """A worker that is to be killed or stopped."""

    pid: int
    """Process id on its machine."""
    machine: str | None = None
    """Name of its machine; None: the server's own."""


def find_victim(models: Sequence[Mapping[str, Any]], asked: KillBody) -> Victim:
    """Find a worker in the content of `/status`.

    Args:
        models: present result of `Status.describe`.
        asked: which worker.

    Raises:
        ConfigError: there is no such worker now.
    """
    model = _model_of(models, asked.model)
    workers = [one for one in model["plan"]["workers"] if one["replica"] == asked.replica]
    pids = [pid for one in model["replicas"][asked.replica : asked.replica + 1] for pid in one["pids"]]
    if asked.worker >= len(pids) or len(pids) != len(workers):
        raise ConfigError(f"replica {asked.replica} has no worker {asked.worker} that serves now")
    return Victim(pid=pids[asked.worker], machine=workers[asked.worker].get("machine"))


async def take_worker(status: Status, asked: KillBody) -> None:
    """Kill or stop a worker on any machine.

    Raises:
        ConfigError: there is no such worker now, or it has just ended.
        WorkerLost: its machine does not answer.
    """
    victim = find_victim(await status.describe(), asked)
    if victim.machine is None:
        strike(victim.pid, asked.how)
    else:
        await status.strike(asked.model, victim.machine, Strike(how=asked.how, pid=victim.pid))


async def take_machine(status: Status, asked: StrikeBody) -> None:
    """Kill or stop all workers of another machine, or pull its cable.

    Raises:
        ConfigError: there is no such machine, or its cable is pulled already.
        WorkerLost: the machine does not answer.
    """
    names = [one["name"] for one in _model_of(await status.describe(), asked.model).get("machines", ())]
    if asked.machine not in names:
        there = ", ".join(names) or "none but the server's own"
        raise ConfigError(f"{asked.model} has no machine {asked.machine!r}; there: {there}")
    await status.strike(asked.model, asked.machine, Strike(how=asked.how, for_s=asked.for_s))


def strike(pid: int, how: str) -> None:
    """Kill or stop a worker. It is a child of this process, so its process id is not reused before its end is noticed.

    Raises:
        ConfigError: the worker has just ended.
    """
    try:
        os.kill(pid, SIGNALS[how])
    except ProcessLookupError:
        raise ConfigError("the worker has just ended") from None


def _model_of(models: Sequence[Mapping[str, Any]], name: str) -> Mapping[str, Any]:
    model = next((one for one in models if one["name"] == name), None)
    if model is None:
        raise ConfigError(f"no model {name!r} is served")
    return model
