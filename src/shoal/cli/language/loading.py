"""Load a model for a command: plan, show the plan, start the workers behind a progress bar."""

from __future__ import annotations

from shoal.cli.shared.planned import note_left_out, note_threads
from shoal.cli.show.output import measuring, print_plan, progress_bar
from shoal.cli.show.plan_output import note_figures, print_choice
from shoal.config import LaunchConfig
from shoal.core.recovery.config import RecoveryConfig
from shoal.launch.language.planning import PlannedModel, plan_model
from shoal.launch.launch import LoadedModel, launch


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


def plan_for(config: LaunchConfig, *, quiet: bool = False) -> PlannedModel:
    """The model with its plan, after measuring where that is needed."""
    with measuring(quiet=quiet, way_out="; --split 1 skips this") as tell:
        return plan_model(config, tell)


def load_planned(
    planned: PlannedModel,
    *,
    quiet: bool = False,
    recovery: RecoveryConfig | None = None,
) -> LoadedModel:
    """The same from its plan on."""
    if not quiet:
        print_plan(planned.plan)
        if planned.auto is not None:
            print_choice(planned.auto)
            note_figures(planned.auto.figures, planned.plan.model)
    note_left_out(planned.machines)
    note_threads(planned.plan.shards)
    with progress_bar("loading") as update:
        return launch(planned, update, recovery=recovery)
