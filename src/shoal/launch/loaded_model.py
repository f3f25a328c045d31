"""A model that takes requests, and how far it is while it is being loaded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from shoal.core.plan.language import Plan, ReplicaPlan
from shoal.errors import ConfigError
from shoal.launch.planned import Loaded
from shoal.machines.machines import describe_machines
from shoal.model.decoder.onnx.segment_sizes import count_pieces
from shoal.model.decoder_config import DecoderConfig
from shoal.model.text.tokenizer import Tokenizer, load_tokenizer
from shoal.router.engine import Engine

if TYPE_CHECKING:  # what a model in this process does without
    from shoal.executor.remote.strikes import Strike
    from shoal.launch.language.planning import PlannedModel
    from shoal.launch.running.expert_heat import StageHeat
    from shoal.launch.running.joining import Joining
    from shoal.launch.running.running_plan import RunningPlan
    from shoal.router.engine_stats import EngineStats

ProgressCallback = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel(Loaded[Plan]):
    """A language model that is ready to take requests. Close it."""

    path: Path
    decoder: DecoderConfig
    tokenizer: Tokenizer
    engine: Engine
    adapters: tuple[str, ...] = ()
    """Names of those that requests may ask for, by their numbers."""
    running: RunningPlan[Plan, ReplicaPlan, EngineStats] | None = None
    """None: the plan never changes"""
    joining: Joining[ReplicaPlan] | None = None
    """looks for more machines"""

    @property
    def running_plan(self) -> Plan:
        """As it is now; `plan` is as it was at first."""
        return self.plan if self.running is None else self.running.actual

    def expert_heats(self) -> list[StageHeat]:
        """Which experts rows go to, of every stage whose workers have told. May be called from any thread."""
        if self.running is None or self.decoder.experts is None:
            return []
        from shoal.launch.running.expert_heat import stage_heats  # and all that a model in this process does without

        return stage_heats(self.running)

    def describe_machines(self) -> list[dict[str, str]]:
        """What each machine does, as plain data; nothing where there is only this one."""
        return [] if self.machines is None else describe_machines(self.machines, self.running_plan.shards)

    def strike(self, machine: str, strike: Strike) -> None:
        """See `Machines.strike`. Raises ConfigError: there is no machine but this one."""
        if self.machines is None:
            raise ConfigError("this model runs only on the server's own machine")
        self.machines.strike(machine, strike)

    def close(self) -> None:
        """See `Loaded.close`."""
        if self.joining is not None:
            self.joining.close()
        self.engine.close()
        if self.running is not None:
            self.running.close()
        if self.machines is not None:
            self.machines.close()


class LoadProgress:
    """Segments loaded so far, over all workers."""

    def __init__(self, plan: Plan, callback: ProgressCallback) -> None:
        """`callback`: told (done, total)."""
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


def load_tokenizer_of(planned: PlannedModel) -> Tokenizer:
    """The tokenizer of a planned model. Raises ModelLoadError."""
    return load_tokenizer(planned.model.text_path, num_rows=planned.model.config.vocab_size)
