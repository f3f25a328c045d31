"""Events that a replica's scheduler takes in, and effects that it returns."""

from __future__ import annotations

from collections.abc import Sequence as Seq

import msgspec

from shoal.core.generation.steps.step_work import StepWork
from shoal.core.sequences.request import Output, Request, RequestId, RequestProgress
from shoal.protocol.language_messages import Step, StepResult


class RequestAdded(msgspec.Struct, frozen=True, kw_only=True):
    """A request has arrived at this replica."""

    request: Request
    progress: RequestProgress | None = None
    """The tokens and state from which it continues, if it began on other workers."""
    digests: Seq[bytes] = ()
    """Digests of its leading full blocks, as far as routing has computed them."""


class RequestCancelled(msgspec.Struct, frozen=True, kw_only=True):
    """The client went away. Ignored if the id is unknown or its request has ended, since the two may cross."""

    request_id: RequestId


class RequestWithdrawn(msgspec.Struct, frozen=True, kw_only=True):
    """The request is to continue on another replica. It must hold no blocks here; an unknown id is ignored."""

    request_id: RequestId


class StepCompleted(msgspec.Struct, frozen=True, kw_only=True):
    """The last stage has answered a step."""

    result: StepResult


class WorkersLost(msgspec.Struct, frozen=True, kw_only=True):
    """A worker of this replica is lost. Late answers of the old generation are ignored, and no step is sent."""

    reason: str = ""
    """The reason that clients of blamed requests are told."""
    on_purpose: bool = False
    """Whether the workers were stopped in order to be replaced, so that no request is to blame."""


class WorkersReady(msgspec.Struct, frozen=True, kw_only=True):
    """The replica has all its workers again, with empty KV memory, in the scheduler's present generation."""


Event = RequestAdded | RequestCancelled | RequestWithdrawn | StepCompleted | WorkersLost | WorkersReady


class SendStep(msgspec.Struct, frozen=True, kw_only=True):
    """Send this step to every worker of the replica."""

    work: StepWork

    @property
    def step(self) -> Step:
        return self.work.step


class HandOver(msgspec.Struct, frozen=True, kw_only=True):
    """Give this request to another replica."""

    request: Request
    progress: RequestProgress


Effect = SendStep | HandOver | Output
