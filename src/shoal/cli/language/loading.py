"""Load a model for a command: plan, show the plan, start the workers behind a progress bar."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shoal.cli.shared.planned import PlanView, show_plan
from shoal.cli.show.output import measuring, print_plan, progress_bar
from shoal.cli.show.plan_output import choice_dict, note_figures, print_choice, print_explanation
from shoal.config import LaunchConfig
from shoal.core.plan.language import Plan
from shoal.core.recovery.config import RecoveryConfig
from shoal.launch.language.planning import PlannedModel, plan_model
from shoal.launch.launch import LoadedModel, launch

if TYPE_CHECKING:  # what a split said by hand does without
    from shoal.launch.language.auto_plan import AutoPlan


def load_model(
    config: LaunchConfig,
    *,
    quiet: bool = False,
    recovery: RecoveryConfig | None = None,
) -> LoadedModel:
    """The loaded model; close it.

    Args:
        config: what the user asked for.
        quiet: print no plan, only warnings.
        recovery: see `launch`.
    """
    return load_planned(plan_for(config, quiet=quiet), quiet=quiet, recovery=recovery)


def plan_for(config: LaunchConfig, *, quiet: bool = False, way_out: str = "; --split 1 skips this") -> PlannedModel:
    """The model with its plan, after measuring where that is needed; `way_out`: how to do without."""
    with measuring(quiet=quiet, way_out=way_out) as tell:
        return plan_model(config, tell)


def load_planned(
    planned: PlannedModel,
    *,
    quiet: bool = False,
    recovery: RecoveryConfig | None = None,
) -> LoadedModel:
    """The same from its plan on."""
    show_plan(planned, LANGUAGE_VIEW, quiet=quiet)
    with progress_bar("loading") as update:
        return launch(planned, update, recovery=recovery)


def _print_choice(auto: AutoPlan) -> None:
    print_choice(auto)
    note_figures(auto.figures, auto.plan.model)


LANGUAGE_VIEW: PlanView[Plan, AutoPlan] = PlanView(
    print_plan=print_plan,
    print_choice=_print_choice,
    print_explanation=print_explanation,
    choice_dict=choice_dict,
)
