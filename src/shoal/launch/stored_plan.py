"""Reading a stored plan, which may have been edited, and checking that it belongs to the model."""

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
    """Read the plan in a file.

    Args:
        name: the name of the file.
        kind: the kind of plan that the model needs.
        model: the model as the user named it.
        shape: the shape of the model, for which the plan must have been made.

    Raises:
        ConfigError: the file is missing, or is no plan for this model.
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
