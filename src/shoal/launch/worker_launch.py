"""Launching a language model with workers: start them, load their stages, and supervise them."""

from __future__ import annotations

import logging
import time
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING

from shoal.core.plan.language import Plan, ReplicaPlan
from shoal.core.recovery.config import RecoveryConfig
from shoal.executor.first_start import FirstStart
from shoal.executor.language_factory import LanguageFactory
from shoal.executor.launcher import WorkerLauncher
from shoal.executor.local_launcher import LocalLauncher
from shoal.launch.language.planning import PlannedModel
from shoal.launch.language.process_memory import step_rows
from shoal.launch.loaded_model import LoadedModel, LoadProgress, load_tokenizer_of
from shoal.launch.running.expert_replanner import ExpertReplanner
from shoal.launch.running.growth import Growth
from shoal.launch.running.joining import Joining
from shoal.launch.running.layer_replanner import LayerReplanner
from shoal.launch.running.running_plan import LanguagePlanKind, RunningPlan
from shoal.model.text.tokenizer import Tokenizer
from shoal.router.engine import Engine
from shoal.router.engine_stats import EngineStats

if TYPE_CHECKING:
    from shoal.launch.language.auto_plan import AutoPlan  # imports all that measures and searches
    from shoal.machines.placed_fleet import PlacedFleet

_logger = logging.getLogger("shoal.launch")


def launch_workers(
    planned: PlannedModel,
    progress: LoadProgress,
    *,
    recovery: RecoveryConfig,
    launcher: WorkerLauncher | None = None,
) -> LoadedModel:
    """Start the workers of a plan on any machines. Arguments and errors are those of `launch`.

    The tokenizer is built while the workers start; but if the model goes to other machines, it is built before that, so
    that an unknown kind of vocabulary is reported at once.
    """
    plan = planned.plan
    with ExitStack() as on_failure:
        on_failure.callback(planned.close)
        tokenizer: Tokenizer | None = None
        if planned.machines is not None:
            tokenizer = load_tokenizer_of(planned)
            planned.machines.bring_model(plan, planned.model.config.num_layers, _logger.info)
        launcher = launcher or _launcher(planned)
        factories = [
            LanguageFactory(
                planned.model,
                plan,
                index,
                launcher,
                progress.advance,
                planned.keep_weights,
            )
            for index in range(len(plan.replicas))
        ]
        starts = [FirstStart(factory, recovery, on_failure) for factory in factories]
        tokenizer = tokenizer or load_tokenizer_of(planned)  # while the workers start
        started = [start.wait() for start in starts]
        engine = Engine(
            started,
            time.monotonic,
            factories=factories,
            row_s=[executor.row_s for _, executor in started],
            recovery=recovery,
            routing=planned.routing,
        )
        kind = LanguagePlanKind(planned, launcher)
        running: RunningPlan[Plan, ReplicaPlan, EngineStats] = RunningPlan(plan, kind, engine, factories)
        if planned.replans:
            engine.watch(LayerReplanner(running, planned.model, time.monotonic).look)
            if planned.model.config.experts is not None:
                engine.watch(ExpertReplanner(running, planned.model, time.monotonic).look)
        joining: Joining[ReplicaPlan] | None = None
        if planned.machines is not None:
            growth = growth_of(planned.auto) if planned.auto is not None and planned.replans else None
            joining = Joining(planned.machines, running, growth, wake=engine.wake)
            engine.watch(joining.look)
            joining.start()
        on_failure.pop_all()
    return LoadedModel(
        path=planned.model.path,
        plan=plan,
        decoder=planned.model.config,
        tokenizer=tokenizer,
        adapters=planned.model.adapter_names,
        engine=engine,
        running=running,
        machines=planned.machines,
        joining=joining,
    )


def growth_of(auto: AutoPlan) -> Growth[PlacedFleet, ReplicaPlan]:
    """Plans for machines that join those of a chosen plan."""
    return Growth(
        present=auto.choice.best.replicas,
        placed=auto.placed,
        measure=auto.planner.measure_joined,
        extend=partial(auto.planner.extend, link_precision=auto.plan.link_precision),
    )


def _launcher(planned: PlannedModel) -> WorkerLauncher:
    if planned.machines is not None:
        return planned.machines.launcher()
    return LocalLauncher(step_rows=step_rows(planned.plan), hidden_size=planned.model.config.carried_width)
