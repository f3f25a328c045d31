"""Answers of agents, and Ray's errors translated into Shoal's: one line, without Ray's tracebacks."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

from shoal.errors import ConfigError, ShoalError, WorkerLost

LOOK_S = 0.2
"""Seconds between two checks whether the answer is still wanted, and longest wait to read an answer that is there."""
_COLOR = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
"""Terminal color sequences. Source: ECMA-48, control sequence introducer."""
_EXCEPTION = re.compile(r"[A-Za-z_][\w.]*(Error|Exception|NotFound|Interrupt): .+")
_MAX_REASON_CHARS = 300


def wait_for(ray: ModuleType, reference: Any, complaint: str, timeout_s: float, is_wanted: Callable[[], bool]) -> None:
    """Wait for an agent's answer. Raises WorkerLost(complaint) on a timeout, or if it is no longer wanted."""
    deadline_s = time.monotonic() + timeout_s
    while not ray.wait([reference], timeout=LOOK_S)[0]:
        if time.monotonic() >= deadline_s or not is_wanted():
            raise WorkerLost(complaint)


def answer_of(ray: ModuleType, reference: Any, who: str) -> Any:
    """The answer of an agent, which must have arrived.

    Args:
        ray: the module.
        reference: Ray's reference to the answer.
        who: the name of the agent's machine.

    Raises:
        ConfigError: no agent can be started on the machine.
        WorkerLost: the agent or its machine is gone.
        ShoalError: the agent raised it.
    """
    try:
        return ray.get(reference, timeout=LOOK_S)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, ShoalError):
            raise error.cause from None
        raise WorkerLost(f"machine {who} failed: {reason_in(str(error))}") from error
    except ray.exceptions.ActorDiedError as error:
        if error.actor_init_failed:
            raise ConfigError(
                f"Shoal cannot be started on {who} ({reason_in(str(error))}): install the same version of it there, "
                "for the Python that Ray runs with"
            ) from error
        raise WorkerLost(f"machine {who} does not answer: its agent has ended") from error
    except ray.exceptions.ActorUnavailableError as error:
        raise WorkerLost(f"machine {who} does not answer: its agent is being started again") from error
    except (ray.exceptions.RayError, TimeoutError) as error:
        raise WorkerLost(f"machine {who} does not answer: {reason_in(str(error))}") from error


def reason_in(text: str) -> str:
    """The useful line of Ray's message: the exception at the end of a traceback, otherwise the first line."""
    lines = [line.strip() for line in _COLOR.sub("", text).splitlines() if line.strip()]
    exceptions = [line for line in lines if _EXCEPTION.fullmatch(line)]
    return (exceptions or lines[:1] or ["no reason given"])[-1][:_MAX_REASON_CHARS]
