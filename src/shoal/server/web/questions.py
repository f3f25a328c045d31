"""Bounded bodies of the calls that only the page makes."""

from __future__ import annotations

from typing import Annotated, Literal, TypeVar

import msgspec

from shoal.executor.remote.strikes import MAX_CABLE_S, StrikeKind
from shoal.planner.speeds.speeds import LinkSpeed
from shoal.planner.what_if import Change, ChangeKind

MAX_BODY_BYTES = 1 << 14
_Name = Annotated[str, msgspec.Meta(max_length=1024)]
_Index = Annotated[int, msgspec.Meta(ge=0, lt=1 << 16)]


class WhatIfBody(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """POST /status/what-if"""

    model: _Name
    change: ChangeKind
    like: _Name = ""
    factor: Annotated[float, msgspec.Meta(ge=1e-3, le=1e3)] = 0.5
    latency_s: Annotated[float, msgspec.Meta(ge=0, le=10)] = 200e-6
    bytes_per_s: Annotated[float, msgspec.Meta(ge=1e3, le=1e13)] = 117e6

    def to_change(self) -> Change:
        """The change in the planner's form."""
        link = LinkSpeed(latency_s=self.latency_s, bytes_per_s=self.bytes_per_s)
        return Change(kind=self.change, like=self.like, factor=self.factor, link=link)


class KillBody(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """POST /status/kill"""

    model: _Name
    replica: _Index
    worker: _Index
    """Number of the worker, counted stage by stage and rank by rank."""
    how: Literal["kill", "stop"] = "kill"
    """kill: the worker ends; stop: it hangs."""


class StrikeBody(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """POST /status/strike"""

    model: _Name
    machine: _Name
    how: StrikeKind
    """kill, stop: all of its workers; cable: nothing passes between it and any other machine."""
    for_s: Annotated[float, msgspec.Meta(gt=0, le=MAX_CABLE_S)] = 5.0
    """Seconds until the cable is connected again."""


BodyT = TypeVar("BodyT", WhatIfBody, KillBody, StrikeBody)


def read_body(content: bytes, schema: type[BodyT]) -> BodyT | str:
    """The body, or a message that says what is wrong with it."""
    try:
        return msgspec.json.decode(content, type=schema)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return f"the body is not what this call takes: {error}"
