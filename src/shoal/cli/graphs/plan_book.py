"""How served graphs were planned, for the page of `shoal serve`."""

from __future__ import annotations

from typing import Any

from shoal.cli.show.graph_plan_output import graph_choice_dict
from shoal.errors import ConfigError
from shoal.launch.graph.auto_plan import GraphAutoPlan
from shoal.planner.graph_choice.choice import GraphSplit
from shoal.planner.what_if import Change


class GraphPlanBook:
    """Implements `server.web.seams.PlanBook`. Noted in the thread that loads models, read in others."""

    def __init__(self) -> None:
        self._choices: dict[str, dict[str, Any]] = {}

    def note(self, model: str, auto: GraphAutoPlan[GraphSplit] | None) -> None:
        """A model is loaded. `auto`: what its plan was chosen from; None: it was given."""
        if auto is None:
            self._choices.pop(model, None)
        else:
            self._choices[model] = graph_choice_dict(auto)

    def choice(self, model: str) -> dict[str, Any] | None:
        """See `PlanBook.choice`."""
        return self._choices.get(model)

    def machines(self, model: str) -> tuple[str, ...]:
        """See `PlanBook.machines`."""
        return ()

    def what_if(self, model: str, change: Change) -> dict[str, Any]:
        """See `PlanBook.what_if`."""
        raise ConfigError("the planner answers this for language models only: a graph's cuts are measured as they are")
