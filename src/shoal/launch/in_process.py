"""A language model's replica of one worker in this process: `poll` computes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from shoal.core.generation.steps.step_work import StepWork
from shoal.core.plan.language import ReplicaPlan
from shoal.executor.in_process import InProcessExecutor
from shoal.executor.load_message import load_message
from shoal.launch.language.planning import PlannedModel
from shoal.model.adapter.files import adapters_unchanged
from shoal.model.decoder.forced_form import ForcedForm
from shoal.model.file_states import states_again, unchanged
from shoal.model.open_stage import LanguageStage, open_stage
from shoal.model.packed.kept_weights import kept_for
from shoal.protocol.language_messages import StepResult


def load_in_process(
    planned: PlannedModel, replica: ReplicaPlan, on_progress: Callable[[int, int], None]
) -> InProcessStepExecutor:
    """Load the whole model in this process, as a plan's only worker would.

    Args:
        planned: a model with a plan of one worker.
        replica: the only replica of the plan.
        on_progress: called with (done, total) pieces of weights.

    Raises:
        ModelLoadError: a weight is missing, damaged or of an unknown kind, or the files have changed.
    """
    model = planned.model
    load = load_message(
        model.path,
        planned.plan,
        replica,
        0,
        0,
        num_layers=model.config.num_layers,
        files=model.files,
        keep_weights=planned.keep_weights,
        adapters=model.adapters,
    )
    with unchanged(model.files, lambda: states_again(model.path, model.files)), adapters_unchanged(load.adapters):
        stage = open_stage(
            model.path,
            load.stage,
            on_progress,
            source=None if model.is_graph else model.file_source,
            kept=kept_for(load),
            form=ForcedForm.of(os.environ),
            adapters=load.adapters,
        )
    return InProcessStepExecutor(stage)


class InProcessStepExecutor(InProcessExecutor[StepWork, StepResult]):
    """Computes steps of a whole model in this process."""

    def __init__(self, stage: LanguageStage) -> None:
        """`stage`: the whole model."""
        super().__init__(lambda work: _compute(stage, work))


def _compute(stage: LanguageStage, work: StepWork) -> StepResult:
    started_s = time.perf_counter()
    step = work.step
    tokens = stage.process(step, masks=work.masks)
    assert isinstance(tokens, tuple)
    compute_s = time.perf_counter() - started_s
    return StepResult(
        step_id=step.step_id,
        generation=step.generation,
        tokens=tokens,
        compute_s=(compute_s,),
        alignment=stage.alignment,
    )
