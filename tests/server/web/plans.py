"""A book of plans for servers under test."""

from __future__ import annotations

from typing import Any

from shoal.errors import CapacityError, ConfigError
from shoal.planner.choice.what_if import Change
from shoal.server.web.routes import PageOptions


class FakePlans:
    """Implements `PlanBook`: whatever is asked, with as many machines as questions so far."""

    def __init__(self) -> None:
        self.asked: list[Change] = []

    def choice(self, model: str) -> dict[str, Any] | None:
        return {"kind": "pipeline", "predicted": {}} if model == "tiny" else None

    def machines(self, model: str) -> tuple[str, ...]:
        return ("a", "b") if model == "tiny" else ()

    def what_if(self, model: str, change: Change) -> dict[str, Any]:
        self.asked.append(change)
        if model != "tiny":
            raise ConfigError(f"no model {model!r} was planned")
        if change.kind == "remove":
            raise CapacityError("it fits nowhere")
        return {"kind": "single", "questions": len(self.asked)}


def page(*, is_demo: bool = False) -> PageOptions:
    return PageOptions(plans=FakePlans(), is_demo=is_demo)
