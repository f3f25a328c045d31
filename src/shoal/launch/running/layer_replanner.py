"""`--replan`: a pipeline whose workers have changed speed gets other layers, if the move pays for itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from shoal.core.plan.language import Block, Plan, ReplicaPlan, held_bytes
from shoal.core.speed.replan import ReplanWatch
from shoal.launch.running.pipeline_replanner import PipelineReplanner
from shoal.launch.running.running_plan import RunningPlan
from shoal.measure.free_memory import free_memory_bytes
from shoal.model.on_disk import ModelOnDisk
from shoal.planner.split.device_layers import devices_hold
from shoal.planner.split.relayer import relayer, with_layers
from shoal.router.engine_stats import EngineStats


class LayerReplanner(PipelineReplanner[Plan, ReplicaPlan, EngineStats]):
    """Moves layers between the stages of a language model."""

    def __init__(
        self,
        running: RunningPlan[Plan, ReplicaPlan, EngineStats],
        model: ModelOnDisk,
        clock: Callable[[], float],
    ) -> None:
        """
        Args:
            running: the plan and its engine.
            model: the model that it runs.
            clock: gives monotonic seconds.
        """
        super().__init__(running, clock)
        self._model = model

    def num_requests(self, stats: EngineStats, index: int) -> float:
        """See `PipelineReplanner.num_requests`."""
        return stats.replicas[index].num_running

    def consider(self, index: int, watched: ReplanWatch, stage_s: Sequence[float], now_s: float) -> None:
        """See `PipelineReplanner.consider`."""
        plan = self._running.plan
        replica = plan.replicas[index]
        layers = [stage.num_layers for stage in replica.stages]
        best = relayer(self._whole_blocks(), layers, stage_s)
        move = watched.weigh(stage_s, best.stage_s, now_s)
        if not (move.pays and self._fits_beside() and self._fits_devices(index, best.layers)):
            return
        moved = with_layers(replica, best.layers, self._whole_blocks(), block_size=plan.block_size)
        before, after = (":".join(map(str, one)) for one in (layers, best.layers))
        change = f"moving layers from {before} to {after}; steps should take {move.gain:.0%} less time"
        self.move(index, moved, "layers", change)

    def _fits_beside(self) -> bool:
        """Whether new workers fit beside the old ones, which keep their memory until the new ones have loaded."""
        return held_bytes(self._whole_blocks()) < free_memory_bytes()

    def _fits_devices(self, index: int, layers: Sequence[int]) -> bool:
        plan = self._running.plan
        blocks = self._model.blocks(plan.precision, exact_activations=True)
        return devices_hold(plan.replicas[index], layers, blocks, block_size=plan.block_size)

    def _whole_blocks(self) -> Sequence[Block]:
        plan = self._running.plan
        return self._model.blocks(plan.precision, exact_activations=plan.exact_activations)
