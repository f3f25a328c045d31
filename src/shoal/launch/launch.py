"""Launching a planned language model, in this process or with workers."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from shoal.core.recovery.config import RecoveryConfig
from shoal.executor.load_message import scheduler_config
from shoal.launch.language.planning import PlannedModel, is_computed_here
from shoal.launch.loaded_model import LoadedModel, LoadProgress, ProgressCallback, load_tokenizer_of
from shoal.router.engine import Engine

if TYPE_CHECKING:
    from shoal.executor.launcher import WorkerLauncher  # with the processes that it makes


def launch(
    planned: PlannedModel,
    on_progress: ProgressCallback | None = None,
    *,
    recovery: RecoveryConfig | None = None,
    launcher: WorkerLauncher | None = None,
) -> LoadedModel:
    """Start the workers of a plan and load their stages.

    Args:
        planned: the result of `plan_model`.
        on_progress: called with (done, total) segments of all workers.
        recovery: when workers count as lost and how they are restarted; None: the defaults.
        launcher: makes the workers; None: child processes on this machine.

    Raises:
        ModelLoadError: the tokenizer cannot be built, or a weight is missing, damaged or of an unknown kind.
        WorkerLost: workers repeatedly died while loading.
    """
    plan = planned.plan
    progress = LoadProgress(plan, on_progress or (lambda done, total: None))
    if launcher is None and is_computed_here(plan, planned.in_process):
        return _launch_here(planned, progress)
    from shoal.launch.worker_launch import launch_workers  # imports all that supervises them

    recovery = recovery or RecoveryConfig()
    if any(shard.device for shard in plan.shards):
        recovery = recovery.for_devices()
    return launch_workers(
        planned,
        progress,
        recovery=recovery,
        launcher=launcher,
    )


def _launch_here(planned: PlannedModel, progress: LoadProgress) -> LoadedModel:
    """Launch a plan of one worker in this process."""
    from shoal.launch.in_process import load_in_process  # imports all that computes

    (replica,) = planned.plan.replicas
    tokenizer = load_tokenizer_of(planned)
    executor = load_in_process(planned, replica, lambda done, total: progress.advance(1))
    return LoadedModel(
        path=planned.model.path,
        plan=planned.plan,
        decoder=planned.model.config,
        tokenizer=tokenizer,
        adapters=planned.model.adapter_names,
        engine=Engine([(scheduler_config(planned.plan, replica), executor)], time.monotonic),
    )
