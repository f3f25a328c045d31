"""The recurrent layers of a stage: their states, and each step's description for them. Native only.

Shapes: B sequences, S snapshots, K taps, C channels.
"""

from __future__ import annotations

from typing import cast

import numpy as np

from shoal import _native
from shoal.arrays import F32
from shoal.errors import ConfigError
from shoal.model.attention.kv_storage import aligned_zeros
from shoal.model.recurrence import RecurrenceConfig
from shoal.model.weights import WeightSource
from shoal.protocol.messages import Step
from shoal.protocol.stage_config import StageConfig


class StageRecurrence:
    """Owns the states of one stage. A shard without channels has none."""

    def __init__(self, config: StageConfig, pool: _native.ThreadPool, *, isa: str) -> None:
        """
        Args:
            config: what to hold.
            pool: the compute threads.
            isa: instruction set to compute with; empty: the best.
        """
        self._pool, self._config, self._isa = pool, config, isa
        self._states: list[F32] = []

    def layer(self, source: WeightSource, layer: int, recurrence: RecurrenceConfig) -> _native.RecurrentLayer | None:
        """One layer with its states; None in a shard without a part of it.

        Args:
            source: of the stage's or the shard's own weights.
            layer: its number.
            recurrence: of the shard.

        Raises:
            ConfigError: there are no slots for states.
        """
        if not self._config.num_states:
            raise ConfigError(f"layer {layer} is recurrent, but there are no slots for states")
        if not recurrence.num_pieces:
            return None
        states = cast(F32, aligned_zeros((self._config.num_states, recurrence.state_floats), np.float32))
        self._states.append(states)
        name = f"layers.{layer}.conv_taps"
        taps_CK = source.vector(name).reshape(-1, recurrence.num_taps)
        return _native.short_conv_layer(
            self._pool,
            np.ascontiguousarray(taps_CK.T),
            source.vector(f"{name}_bias") if recurrence.biases else None,
            states,
            self._isa,
        )

    def describe(self, step: Step, metadata: _native.StepMetadata) -> None:
        """Raises: ValueError where the step names slots that are not there."""
        if not self._states:
            return
        metadata.set_states(
            slots=np.frombuffer(step.state_slots, "<i4").reshape(-1, 2),
            saves=np.frombuffer(step.state_saves, "<i4").reshape(-1, 3),
            num_slots=self._config.num_states,
        )

    def touch(self) -> None:
        """Takes the states' memory from the system now."""
        for states in self._states:
            states.fill(0.0)
