"""`serve --demo`: take a worker away, to see the server go on."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping, Sequence
from typing import Any

from shoal.errors import ConfigError
from shoal.server.web.questions import KillBody

_SIGNALS = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}


def find_victim(models: Sequence[Mapping[str, Any]], asked: KillBody) -> int:
    """The process id of a worker, of what `/status` says.

    Args:
        models: from `Status.describe`, just now.
        asked: which worker.

    Raises:
        ConfigError: there is no such worker now, or it is on another machine.
    """
    model = next((one for one in models if one["name"] == asked.model), None)
    if model is None:
        raise ConfigError(f"no model {asked.model!r} is served")
    workers = [one for one in model["plan"]["workers"] if one["replica"] == asked.replica]
    pids = [pid for one in model["replicas"][asked.replica : asked.replica + 1] for pid in one["pids"]]
    if asked.worker >= len(pids) or len(pids) != len(workers):
        raise ConfigError(f"replica {asked.replica} has no worker {asked.worker} that serves now")
    if (machine := workers[asked.worker].get("machine")) is not None:
        raise ConfigError(f"worker {asked.worker} runs on {machine}: only workers of this machine can be killed here")
    return pids[asked.worker]


def strike(pid: int, how: str) -> None:
    """Kill or stop a worker: a child of this process, so its id is its own until its end has been noticed.

    Raises:
        ConfigError: it has just ended.
    """
    try:
        os.kill(pid, _SIGNALS[how])
    except ProcessLookupError:
        raise ConfigError("the worker has just ended") from None
