"""How a served language model was planned, for the page of `shoal serve`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shoal.cli.show.plan_output import choice_dict, chosen_dict
from shoal.errors import ConfigError

if TYPE_CHECKING:  # what a split said by hand does without
    from shoal.launch.language.auto_plan import AutoPlan
    from shoal.planner.what_if import Change


class LanguagePlanBook:
    """Implements `server.web.seams.PlanBook` for the only model of a server. Keeps no file of it open."""

    def __init__(self, auto: AutoPlan | None) -> None:
        """`auto`: what the plan was chosen from; None: it was given."""
        self._choice = None if auto is None else choice_dict(auto)
        self._question = None if auto is None else auto.question

    def choice(self, model: str) -> dict[str, Any] | None:
        """See `PlanBook.choice`."""
        return self._choice

    def machines(self, model: str) -> tuple[str, ...]:
        """See `PlanBook.machines`."""
        return () if self._question is None else self._question.class_names

    def what_if(self, model: str, change: Change) -> dict[str, Any]:
        """See `PlanBook.what_if`."""
        from shoal.launch.what_if import ask_planner  # and all that chooses plans

        if self._question is None:
            raise ConfigError("the split was given, so no machine was measured: serve with --split auto to ask this")
        return chosen_dict(ask_planner(self._question, change))
