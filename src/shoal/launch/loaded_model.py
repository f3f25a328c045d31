"""A loaded language model, and the progress of loading."""

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

if TYPE_CHECKING:  # not needed for a model in this process
    from shoal.executor.remote.strikes import Strike
    from shoal.launch.language.planning import PlannedModel
    from shoal.launch.running.expert_heat import StageHeat
    from shoal.launch.running.joining import Joining
    from shoal.launch.running.running_plan import RunningPlan
    from shoal.router.engine_stats import EngineStats

ProgressCallback = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel(Loaded[Plan]):
    """A language model that is ready for requests. It must be closed."""

    path: Path
    decoder: DecoderConfig
    tokenizer: Tokenizer
    engine: Engine
    adapters: tuple[str, ...] = ()
    """Names of the adapters that requests may select, ordered by index."""
    running: RunningPlan[Plan, ReplicaPlan, EngineStats] | None = None
    """The running plan; None: it never changes."""
    joining: Joining[ReplicaPlan] | None = None
    """Watches the machines; None: there is only this one."""

    @property
    def running_plan(self) -> Plan:
        """The plan as it runs now; `plan` is the first one."""
        return self.plan if self.running is None else self.running.actual

    def expert_heats(self) -> list[StageHeat]:
        """The heat of the experts of every stage whose workers have reported it. Callable from any thread."""
        if self.running is None or self.decoder.experts is None:
            return []
        from shoal.launch.running.expert_heat import stage_heats  # not needed for a model in this process

        return stage_heats(self.running)

    def describe_machines(self) -> list[dict[str, str]]:
        """The state of each machine as plain data; empty if there is only this one."""
        return [] if self.machines is None else describe_machines(self.machines, self.running_plan.shards)

    def strike(self, machine: str, strike: Strike) -> None:
        """See `Machines.strike`. Raises ConfigError if there is only this machine."""
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
    """Counts the segments that all workers have loaded."""

    def __init__(self, plan: Plan, callback: ProgressCallback) -> None:
        """`callback`: called with (done, total)."""
        self._callback = callback
        self._done = 0
        self._total = sum(
            len(stage.shards) * count_pieces(stage.num_layers, is_shard=len(stage.shards) > 1)
            for replica in plan.replicas
            for stage in replica.stages
        )

    def advance(self, count: int) -> None:
        """Count loaded segments; segments that are loaded again later do not count."""
        if self._done < self._total:
            self._done += count
            self._callback(self._done, self._total)


def load_tokenizer_of(planned: PlannedModel) -> Tokenizer:
    """The tokenizer of a planned model. Raises ModelLoadError."""
    return load_tokenizer(planned.model.text_path, num_rows=planned.model.config.vocab_size)
