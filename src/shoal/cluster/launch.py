"""From a plan to a running engine: start the workers, load their stages."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from shoal.cluster.fabric import Fabric
from shoal.cluster.first_start import FirstStart
from shoal.cluster.joining import Joining
from shoal.cluster.local_fabric import LocalFabric
from shoal.cluster.machines import Machines
from shoal.cluster.planning import PlannedModel
from shoal.cluster.replanner import Replanner
from shoal.cluster.replica_recipe import PipelineRecipe, scheduler_config
from shoal.cluster.running_plan import RunningPlan
from shoal.core.plan import Plan
from shoal.core.recovery.config import RecoveryConfig
from shoal.model.decoder.segment_sizes import count_pieces
from shoal.model.decoder_config import DecoderConfig
from shoal.model.text.tokenizer import Tokenizer, load_tokenizer
from shoal.router.engine import Engine

ProgressCallback = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """A model that is ready to take requests. Close it."""

    path: Path
    plan: Plan
    decoder: DecoderConfig
    tokenizer: Tokenizer
    engine: Engine
    running: RunningPlan | None = None
    """None: the plan never changes"""
    machines: Machines | None = None
    """that the workers run on; None: this one"""
    joining: Joining | None = None
    """looks for more of them"""

    @property
    def running_plan(self) -> Plan:
        """As it is now; `plan` is as it was at first."""
        return self.plan if self.running is None else self.running.actual

    def describe_machines(self) -> list[dict[str, str]]:
        """What each machine does, as plain data; nothing where there is only this one."""
        if self.machines is None:
            return []
        troubles = self.machines.troubles()
        used = {shard.machine for replica in self.running_plan.replicas for shard in replica.shards}
        names = dict.fromkeys([*(machine.name for machine in self.machines.cores()), *troubles])
        return [
            {"name": name, "state": troubles.get(name) or ("has workers" if name in used else "has no workers")}
            for name in names
        ]

    def __enter__(self) -> LoadedModel:
        return self

    def __exit__(self, *_: object) -> None:
        if self.joining is not None:
            self.joining.close()
        self.engine.close()
        if self.running is not None:
            self.running.close()
        if self.machines is not None:
            self.machines.close()


def launch(
    planned: PlannedModel,
    on_progress: ProgressCallback | None = None,
    *,
    recovery: RecoveryConfig | None = None,
    report: Callable[[str], None] | None = None,
    fabric: Fabric | None = None,
) -> LoadedModel:
    """Start the workers of a plan and load their stages.

    Args:
        planned: from `plan_model`.
        on_progress: called with (done, total) segments of all workers.
        recovery: when workers count as lost and how they are restarted; None: the defaults.
        report: told what happens to workers later, a line each.
        fabric: makes the workers; None: child processes on this machine.

    Raises:
        ModelLoadError: the tokenizer cannot be built, or a weight is missing, broken or of an unknown kind.
        WorkerLost: workers died while loading, again and again.
    """
    plan, recovery, report = planned.plan, recovery or RecoveryConfig(), report or (lambda line: None)
    progress = _Progress(plan, on_progress or (lambda done, total: None))
    is_plain = not any(shard.cpu_quota or shard.machine for replica in plan.replicas for shard in replica.shards)
    if plan.num_workers == 1 and planned.in_process and is_plain and fabric is None:
        from shoal.cluster.in_process import load_in_process  # and all that computes

        (replica,) = plan.replicas
        tokenizer = _load_tokenizer(planned)
        executor = load_in_process(planned, replica, lambda done, total: progress.advance(1))
        engine = Engine([(scheduler_config(plan, replica), executor)], time.monotonic)
        return LoadedModel(
            path=planned.path,
            plan=plan,
            decoder=planned.source.config,
            tokenizer=tokenizer,
            engine=engine,
        )
    with ExitStack() as on_failure:
        on_failure.callback(planned.close)
        tokenizer = _load_tokenizer(planned)
        if planned.machines is not None:
            planned.machines.bring_model(plan, planned.source.config.num_layers, report)
        fabric = fabric or _fabric(planned)
        recipes = [
            PipelineRecipe(
                planned.path,
                planned.source,
                plan,
                index,
                fabric,
                progress.advance,
                planned.files,
                report,
                planned.keep_weights,
            )
            for index in range(len(plan.replicas))
        ]
        starts = [FirstStart(recipe, recovery, report, on_failure) for recipe in recipes]
        started = [start.wait() for start in starts]
        engine = Engine(
            started,
            time.monotonic,
            recipes=recipes,
            row_s=[executor.row_s for _, executor in started],
            recovery=recovery,
            report=report,
            routing=planned.routing,
        )
        running = RunningPlan(planned, engine, fabric, recipes, report)
        if planned.replans:
            engine.watch(Replanner(running, planned.source, time.monotonic, report).look)
        joining: Joining | None = None
        if planned.machines is not None:
            auto = planned.auto if planned.replans else None
            joining = Joining(planned.machines, running, auto, wake=engine.wake, report=report)
            engine.watch(joining.look)
            joining.start()
        on_failure.pop_all()
    return LoadedModel(
        path=planned.path,
        plan=plan,
        decoder=planned.source.config,
        tokenizer=tokenizer,
        engine=engine,
        running=running,
        machines=planned.machines,
        joining=joining,
    )


def _fabric(planned: PlannedModel) -> Fabric:
    if planned.machines is not None:
        return planned.machines.fabric()
    return LocalFabric(max_step_tokens=planned.plan.max_step_tokens, hidden_size=planned.source.config.hidden_size)


def _load_tokenizer(planned: PlannedModel) -> Tokenizer:
    """Before any weights are loaded: a vocabulary of an unknown kind is told at once."""
    return load_tokenizer(planned.path, num_rows=planned.source.config.vocab_size)


class _Progress:
    """Segments loaded so far, over all workers."""

    def __init__(self, plan: Plan, callback: ProgressCallback) -> None:
        self._callback = callback
        self._done = 0
        self._total = sum(
            len(stage.shards) * count_pieces(stage.num_layers, is_shard=len(stage.shards) > 1)
            for replica in plan.replicas
            for stage in replica.stages
        )

    def advance(self, count: int) -> None:
        """Segments that are loaded again later count no more."""
        if self._done < self._total:
            self._done += count
            self._callback(self._done, self._total)
