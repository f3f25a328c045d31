"""A stored plan, perhaps edited: read from its file, and known to belong to the model."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from shoal.core.plan.graph import GraphPlan
from shoal.core.plan.language import Plan
from shoal.errors import ConfigError
from shoal.planner.files.plan_file import check_shape, read_plan

PlanT = TypeVar("PlanT", Plan, GraphPlan)
_WORDS: dict[type, str] = {Plan: "a language model", GraphPlan: "an ONNX graph"}


def read_stored_plan(name: str, kind: type[PlanT], *, model: str, shape: str) -> PlanT:
    """The plan in a file.

    Args:
        name: of the file.
        kind: of plan that the model needs.
        model: as the user named it.
        shape: of the model; the plan must have been made for the same.

    Raises:
        ConfigError: there is no such file, it is no plan, or none for this model.
    """
    try:
        text = Path(name).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the plan {name}: {error}") from error
    plan = read_plan(text, name)
    if not isinstance(plan, kind):
        raise ConfigError(f"{name} is a plan for {_WORDS[type(plan)]}, but {model} is {_WORDS[kind]}")
    check_shape(plan, shape, model)
    return plan
