"""The factory of a language model's replica, which starts its workers at first and after every loss."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence

from msgspec import structs

from shoal.core.generation.scheduler_config import SchedulerConfig
from shoal.core.generation.steps.step_work import StepWork
from shoal.core.plan.language import Plan, ReplicaPlan
from shoal.executor.launcher import Place, WorkerLauncher, place_of, replica_elsewhere, worker_label
from shoal.executor.load_message import load_message, scheduler_config
from shoal.executor.pipeline_executor import PipelineExecutor
from shoal.executor.traffic import StepTraffic
from shoal.model.on_disk import ModelOnDisk
from shoal.planner.split.fewer_workers import plan_without
from shoal.planner.split.split_text import describe
from shoal.protocol.language_messages import AdapterFile, ExpertLoad, StepResult
from shoal.protocol.worker_messages import Generation
from shoal.router.executor import StepExecutor

_logger = logging.getLogger("shoal.launch")

StepPipeline = PipelineExecutor[StepWork, StepResult]


class LanguageFactory:
    """Starts the workers of one replica; after a loss, only the lost ones.

    Implements `router.executor.ReplicaFactory`.
    """

    def __init__(
        self,
        model: ModelOnDisk,
        plan: Plan,
        index: int,
        launcher: WorkerLauncher,
        on_progress: Callable[[int], None] | None = None,
        keep_weights: bool = True,
    ) -> None:
        """Prepare starts.

        Args:
            model: the model that workers load.
            plan: the plan of all replicas.
            index: the index of this replica.
            launcher: makes the workers.
            on_progress: called with a number of loaded segments.
            keep_weights: see LoadStage.
        """
        self._keep_weights = keep_weights
        self._model = model
        self._plan = plan
        self._replica = plan.replicas[index]
        self._name = f"replica {index}"
        self._launcher = launcher
        self._on_progress = on_progress
        self._latest = self._replica
        self._traffic = StepTraffic()

    @property
    def expert_loads(self) -> Mapping[int, ExpertLoad]:
        """The latest reports of workers about their experts, by worker, counted stage by stage and rank by rank."""
        return self._traffic.expert_loads

    @property
    def latest(self) -> ReplicaPlan:
        """The replica as it was last started: as planned, or without a worker. Readable from any thread."""
        return self._latest

    def start(
        self, generation: Generation, without: int | None, previous: StepExecutor | None
    ) -> tuple[SchedulerConfig, StepPipeline]:
        """See `ReplicaFactory.start`. A replica of one worker cannot run without it; it is started on another machine
        if possible, otherwise unchanged."""
        replica = self._replica if without is None else self._plan_without(without) or self._replica
        self._latest = replica
        if replica is not self._replica and without is not None:
            _logger.info(self._describe_change(replica, without))
        self._traffic = StepTraffic(len(replica.shards) - len(replica.stages[-1].shards))
        executor = PipelineExecutor(
            self._places(replica),
            self._launcher,
            self._traffic,
            generation,
            previous=previous if isinstance(previous, PipelineExecutor) else None,
            on_progress=self._on_progress,
        )
        return scheduler_config(self._plan, replica), executor

    def _places(self, replica: ReplicaPlan) -> list[list[Place]]:
        return [
            [self._place(replica, index, rank) for rank in range(len(stage.shards))]
            for index, stage in enumerate(replica.stages)
        ]

    def _place(self, replica: ReplicaPlan, index: int, rank: int) -> Place:
        model, shard = self._model, replica.stages[index].shards[rank]
        load = load_message(
            model.path,
            self._plan,
            replica,
            index,
            rank,
            num_layers=model.config.num_layers,
            files=() if shard.machine else model.files,
            keep_weights=self._keep_weights,
            adapters=_without_states(model.adapters) if shard.machine else model.adapters,
        )
        return place_of(shard, load, self._name)

    def _describe_change(self, replica: ReplicaPlan, without: int) -> str:
        index, rank = [(i, rank) for i, stage in enumerate(self._replica.stages) for rank in range(len(stage.shards))][
            without
        ]
        machines = dict.fromkeys(shard.machine for shard in replica.shards if shard.machine)
        where = f" over {', '.join(machines)}" if machines else ""
        shards = self._replica.stages[index].shards
        lost = worker_label(shards[rank], index, rank, len(shards))
        split = describe((replica,))
        return f"{self._name} is planned anew as {split}{where}, without {lost}, which could not be started"

    def _plan_without(self, worker: int) -> ReplicaPlan | None:
        plan, model = self._plan, self._model
        blocks = model.blocks(plan.precision, exact_activations=plan.exact_activations)
        fewer = plan_without(plan, self._replica, worker, blocks=blocks, whole=model.whole)
        return fewer or replica_elsewhere(self._replica, self._launcher)


def _without_states(adapters: Sequence[AdapterFile]) -> tuple[AdapterFile, ...]:
    """The adapters without states of files, for a machine with files of its own."""
    return tuple(structs.replace(adapter, files=()) for adapter in adapters)
