"""How served graphs were planned, for the page of `shoal serve`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shoal.cli.show.graph_plan_output import graph_answer_dict, graph_choice_dict
from shoal.errors import ConfigError

if TYPE_CHECKING:  # what a split said by hand does without
    from shoal.launch.graph.auto_plan import GraphAutoPlan
    from shoal.planner.graph_choice.choice import GraphSplit
    from shoal.planner.graph_what_if import GraphPlanQuestion
    from shoal.planner.what_if import Change


class GraphPlanBook:
    """Implements `server.web.seams.PlanBook`. Noted in the thread that loads models, read in others."""

    def __init__(self) -> None:
        self._choices: dict[str, dict[str, Any]] = {}
        self._questions: dict[str, GraphPlanQuestion] = {}
        """of plans that were chosen; they hold no graph"""

    def note(self, model: str, auto: GraphAutoPlan[GraphSplit] | None) -> None:
        """A model is loaded. `auto`: what its plan was chosen from; None: it was given."""
        self._choices.pop(model, None)
        self._questions.pop(model, None)
        if auto is not None:
            self._choices[model] = graph_choice_dict(auto)
            if auto.question is not None:
                self._questions[model] = auto.question

    def choice(self, model: str) -> dict[str, Any] | None:
        """See `PlanBook.choice`."""
        return self._choices.get(model)

    def machines(self, model: str) -> tuple[str, ...]:
        """See `PlanBook.machines`."""
        question = self._questions.get(model)
        return () if question is None else question.class_names

    def what_if(self, model: str, change: Change) -> dict[str, Any]:
        """See `PlanBook.what_if`."""
        from shoal.launch.what_if import ask_planner  # and all that chooses plans

        question = self._questions.get(model)
        if question is None and model in self._choices:
            raise ConfigError("the planner can answer this only for processors, but this plan uses other devices")
        if question is None:
            raise ConfigError("the split was given, so no machine was measured: serve with --split auto to ask this")
        return graph_answer_dict(ask_planner(question, change))
