"""Turns rows of an embedding into the rows that stages pass on, for models whose rows carry more than a hidden state.
Native form only.

Shapes: T tokens, D hidden size, I inputs of all layers.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from shoal import _native
from shoal.arrays import F32
from shoal.model.decoder.native.own_rows import unpack_own_rows
from shoal.model.decoder.stage_layers import SumOverShards
from shoal.model.formats.tensor_check import first_shapes, last_shapes
from shoal.model.packed.loader import PackedWeights
from shoal.model.shard.source import ShardSource
from shoal.model.weights import WeightSource
from shoal.protocol.stage_config import StageConfig

_TABLE = "layer_embedding"


class CarriedRows:
    """The weights of a stage outside its layers, embedding and head, and the table of layer inputs."""

    def __init__(self, source: WeightSource, config: StageConfig, packed: PackedWeights) -> None:
        """
        Args:
            source: of the stage's or the shard's own weights.
            config: what the stage holds.
            packed: where its matrices are.
        """
        decoder = source.config
        shapes = first_shapes(decoder) if config.first_layer == 0 else {}
        shapes |= last_shapes(decoder) if config.last_layer == decoder.num_layers else {}
        matrices = dict(packed.beside([name for name, shape in shapes.items() if len(shape) == 2])) if shapes else {}
        self._table = matrices.pop(_TABLE, None)
        """None: this shard has no rows of the table, or the stage needs none."""
        vectors = {name: source.vector(name) for name, shape in shapes.items() if len(shape) == 1}
        self.weights = _native.StageLayer(matrices, vectors, None)
        """Weights by the names of `WeightSource`."""
        whole = source.whole_config if isinstance(source, ShardSource) else decoder
        self._num_rows = whole.layer_inputs.vocab_size if whole.layer_inputs is not None else 0
        self._first_id, self._width = min(config.first_token_id, self._num_rows), decoder.hidden_size
        inputs = shapes[_TABLE][1] if _TABLE in shapes else 0
        self._looked_up = np.empty((config.max_step_tokens if inputs else 0, inputs), np.float32)

    def look_up(self, token_ids_T: npt.NDArray[np.int32], sum_over_shards: SumOverShards | None) -> F32 | None:
        """The layer inputs of each token, [T, I]; None if layers have no inputs. Tokens beyond the table get the inputs
        of token 0.

        Valid until: the next call.
        """
        if not self._num_rows:
            return None
        looked_up_TI = self._looked_up[: len(token_ids_T)]
        known_T = np.where(token_ids_T < self._num_rows, token_ids_T, np.int32(0))
        unpack_own_rows(self._table, known_T - np.int32(self._first_id), looked_up_TI)
        if sum_over_shards is not None:
            self._add_up(looked_up_TI, sum_over_shards)
        return looked_up_TI

    def _add_up(self, looked_up_TI: F32, sum_over_shards: SumOverShards) -> None:
        """Sum over shards in pieces as wide as a hidden state, the width for which shards exchange sums."""
        for start in range(0, looked_up_TI.shape[1], self._width):
            columns_TD = np.zeros((len(looked_up_TI), self._width), np.float32)
            piece = looked_up_TI[:, start : start + self._width]
            columns_TD[:, : piece.shape[1]] = piece
            sum_over_shards(columns_TD)
            piece[:] = columns_TD[:, : piece.shape[1]]
