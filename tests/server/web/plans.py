"""A book of plans for servers under test."""

from __future__ import annotations

from typing import Any

from shoal.errors import CapacityError, ConfigError, DeadlineExceeded
from shoal.planner.what_if import Change
from shoal.server.web.routes import PageOptions

PREDICTED = {
    "output_tokens_per_s": 120.0,
    "ttft_s": 0.2,
    "tpot_s": 0.008,
    "lone_request_s": 0.7,
    "memory_bytes": [70_000_000, 60_000_000],
    "bottleneck": "stage 1 of replica 0",
}
CHOICE = {
    "kind": "pipeline",
    "split": "pp=1:1 on a, b",
    "objective": "balanced",
    "predicted": PREDICTED,
    "bound_tokens_per_s": 130.0,
    "gap": 0.08,
    "alternatives": [
        {"kind": "single", "rejected": "12% worse by balanced", "split": "1 on a", "predicted": PREDICTED},
        {"kind": "tensor", "rejected": "none fits, or none is better than a simpler kind"},
    ],
    "links": [{"from": ["a"], "to": ["b"], "latency_s": 2e-4, "bytes_per_s": 1.17e8}],
}


class FakePlans:
    """Implements `PlanBook`: whatever is asked, with as many machines as questions so far."""

    def __init__(self) -> None:
        self.asked: list[Change] = []
        self.num_late = 0
        """questions that are not answered in time, the first ones"""

    def choice(self, model: str) -> dict[str, Any] | None:
        return CHOICE if model == "tiny" else None

    def machines(self, model: str) -> tuple[str, ...]:
        return ("a", "b") if model == "tiny" else ()

    def what_if(self, model: str, change: Change) -> dict[str, Any]:
        self.asked.append(change)
        if len(self.asked) <= self.num_late:
            raise DeadlineExceeded("no answer within 20 s")
        if model != "tiny":
            raise ConfigError(f"no model {model!r} was planned")
        if change.kind == "remove":
            raise CapacityError("it fits nowhere")
        return CHOICE | {"kind": "single", "questions": len(self.asked)}


def page(*, is_demo: bool = False, num_late: int = 0) -> PageOptions:
    plans = FakePlans()
    plans.num_late = num_late
    return PageOptions(plans=plans, is_demo=is_demo)
