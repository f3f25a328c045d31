"""The recurrent layers of a stage: their states, and the description of each step for them. Native form only.

Shapes: B sequences, S snapshots, K taps, C channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np

from shoal import _native
from shoal.arrays import F32
from shoal.errors import ConfigError
from shoal.model.attention.kv_storage import aligned_zeros
from shoal.model.recurrence.delta_net import DeltaNetConfig
from shoal.model.recurrence.kinds import RecurrenceConfig
from shoal.model.recurrence.mamba import MambaConfig
from shoal.model.recurrence.short_conv import ShortConvConfig
from shoal.model.weights import WeightSource
from shoal.protocol.language_messages import Step
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
        """One layer with its states; None: this shard has no part of it.

        Args:
            source: weights of the stage or shard.
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
        prefix = f"layers.{layer}."
        match recurrence:
            case ShortConvConfig():
                return self._short_conv(source, prefix, recurrence, states)
            case DeltaNetConfig():
                return self._delta(source, prefix, recurrence, states)
            case MambaConfig():
                return self._scan(source, prefix, recurrence, states)

    def _short_conv(
        self, source: WeightSource, prefix: str, recurrence: ShortConvConfig, states: F32
    ) -> _native.RecurrentLayer:
        name = f"{prefix}conv_taps"
        bias = source.vector(f"{name}_bias") if recurrence.biases else None
        return _native.short_conv_layer(self._pool, _taps(source, [name], recurrence.num_taps), bias, states, self._isa)

    def _delta(
        self, source: WeightSource, prefix: str, recurrence: DeltaNetConfig, states: F32
    ) -> _native.RecurrentLayer:
        names = [f"{prefix}{name}_taps" for name in recurrence.inputs[:3]]
        return _native.delta_layer(
            pool=self._pool,
            num_key_heads=recurrence.num_key_heads,
            num_value_heads=recurrence.num_value_heads,
            key_dim=recurrence.key_dim,
            value_dim=recurrence.value_dim,
            in_turn=recurrence.in_turn,
            taps=_taps(source, names, recurrence.num_taps),
            rates=source.vector(f"{prefix}delta_rate"),
            decay_biases=source.vector(f"{prefix}delta_dt"),
            norm=source.vector(f"{prefix}delta_norm"),
            epsilon=recurrence.norm_epsilon,
            states=states,
            isa=self._isa,
        )

    def _scan(self, source: WeightSource, prefix: str, recurrence: MambaConfig, states: F32) -> _native.RecurrentLayer:
        names = [f"{prefix}{name}_taps" for name in recurrence.inputs[:3]]
        biases = [source.vector(f"{name}_bias") for name in names] if recurrence.taps_bias else []
        return _native.scan_layer(
            pool=self._pool,
            num_groups=recurrence.num_groups,
            num_heads=recurrence.num_heads,
            head_dim=recurrence.head_dim,
            state_dim=recurrence.state_dim,
            taps=_taps(source, names, recurrence.num_taps),
            taps_bias=np.concatenate(biases) if biases else None,
            rates=source.vector(f"{prefix}mamba_rate"),
            step_biases=source.vector(f"{prefix}mamba_start"),
            skips=source.vector(f"{prefix}mamba_skip"),
            norm=source.vector(f"{prefix}mamba_norm"),
            epsilon=recurrence.norm_epsilon,
            states=states,
            isa=self._isa,
        )

    def describe(self, step: Step, metadata: _native.StepMetadata) -> None:
        """Describe the step's sequences for recurrent layers. Raises ValueError if the step names slots that do not
        exist."""
        if not self._states:
            return
        metadata.set_states(
            slots=np.frombuffer(step.state_slots, "<i4").reshape(-1, 2),
            saves=np.frombuffer(step.state_saves, "<i4").reshape(-1, 3),
            num_slots=self._config.num_states,
        )

    def touch(self) -> None:
        """Allocate the states' memory now."""
        for states in self._states:
            states.fill(0.0)


def _taps(source: WeightSource, names: Sequence[str], num_taps: int) -> F32:
    """Taps [K, C] of convolutions whose channels lie side by side."""
    taps_CK = np.concatenate([source.vector(name).reshape(-1, num_taps) for name in names])
    return np.ascontiguousarray(taps_CK.T)
