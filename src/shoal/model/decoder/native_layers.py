"""A stage's layers in the native extension: one call a step, weights in their packed form.

Shapes: T tokens in the step, R sampled rows, D hidden size, V vocabulary rows of the shard.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import numpy.typing as npt

from shoal import _native
from shoal.model.decoder.embedding import own_rows
from shoal.model.decoder.stage_attention import StageAttention
from shoal.model.decoder.stage_config import StageConfig
from shoal.model.decoder.stage_layers import F32, HEAD_ROWS, SumOverShards
from shoal.model.decoder_config import DecoderConfig
from shoal.model.weights import WeightSource
from shoal.protocol.messages import Step


class NativeLayers:
    """Implements `StageLayers`."""

    def __init__(
        self,
        source: WeightSource,
        config: StageConfig,
        vocab_size: int,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """
        Args:
            source: of the stage's or the shard's own weights.
            config: what to hold.
            vocab_size: tokens of the whole model.
            on_progress: called with (done, total) layers.
        """
        decoder = source.config
        self._decoder, self._vocab_size, self._first_id = decoder, vocab_size, config.first_token_id
        self._attention = StageAttention(decoder, config)
        pool = self._attention.pool
        is_first, is_last = config.first_layer == 0, config.last_layer == decoder.num_layers
        weights = PackedWeights(source, config, pool)
        self._embedding = weights.matrix("embedding") if is_first else None
        self._head = weights.matrix("head") if is_last else None
        self._final_norm = source.vector("final_norm") if is_last else None
        self._logits = np.empty((HEAD_ROWS if is_last else 0, decoder.vocab_size), np.float32)
        self._stage = _native.Stage(
            pool=pool,
            hidden_size=decoder.hidden_size,
            num_heads=decoder.num_heads,
            num_kv_heads=decoder.num_kv_heads,
            head_dim=decoder.head_dim,
            intermediate_size=decoder.intermediate_size,
            max_rows=max(config.max_step_tokens, HEAD_ROWS),
            norm_epsilon=decoder.norm_epsilon,
            activation=decoder.activation,
            exact_activations=config.exact_activations,
            layers=self._load_layers(weights, config, on_progress or (lambda done, total: None)),
            isa=config.isa,
        )
