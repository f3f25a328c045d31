"""What happens to a scheduler (events) and what it wants done (effects)."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass

from shoal.core.generation.steps.step_work import StepWork
from shoal.core.sequences.request import Output, Request, RequestId, RequestProgress
from shoal.protocol.language_messages import Step, StepResult


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestAdded:
    """A request has arrived at this replica."""

    request: Request
    progress: RequestProgress | None = None
    """Where the request goes on if it began on other workers."""
    digests: Seq[bytes] = ()
    """Digests of its leading full blocks, as far as routing has found them: they need not be found again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestCancelled:
    """The client went away. An id that is unknown or has ended is ignored: the two may cross."""

    request_id: RequestId


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestWithdrawn:
    """The request continues on another replica; it must hold no blocks here. An unknown id is ignored."""

    request_id: RequestId


@dataclass(frozen=True, slots=True, kw_only=True)
class StepCompleted:
    """The last stage has answered a step."""

    result: StepResult


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkersLost:
    """A worker of this replica is gone. Nothing late from the old generation is believed, no step is sent."""

    reason: str = ""
    """What the clients of requests that are blamed are told."""
    on_purpose: bool = False
    """Whether the workers were stopped to be replaced, so that no request is to blame."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkersReady:
    """The replica's workers are whole again, with empty KV memory, in the scheduler's present generation."""


Event = RequestAdded | RequestCancelled | RequestWithdrawn | StepCompleted | WorkersLost | WorkersReady


@dataclass(frozen=True, slots=True, kw_only=True)
class SendStep:
    """Send this step to every worker of the replica."""

    work: StepWork

    @property
    def step(self) -> Step:
        return self.work.step


@dataclass(frozen=True, slots=True, kw_only=True)
class HandOver:
    """Give this request to another replica."""

    request: Request
    progress: RequestProgress


Effect = SendStep | HandOver | Output
