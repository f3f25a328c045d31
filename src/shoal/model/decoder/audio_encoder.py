"""An audio encoder: two convolutions, positions, and layers whose rows all see each other. Native form only.

Shapes: F frames and P = F / 2 positions of a clip, M mels, D hidden size, C inputs of a convolution.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from shoal import _native
from shoal.arrays import F32
from shoal.model.attention.kv_storage import whole_block_size, whole_kv_dtype
from shoal.model.decoder.embedding import position_rows
from shoal.model.decoder.forced_form import ForcedForm
from shoal.model.decoder.native.native_layers import NativeLayers
from shoal.model.decoder_config import EncoderConfig
from shoal.model.encoder_source import EncoderSource
from shoal.model.formats.quantization import quantize_rows
from shoal.model.formats.tensor_check import CONV_TAPS
from shoal.model.packed.kept_weights import KeptWeights
from shoal.model.packed.memory import own_memory
from shoal.model.packed.pack import pack_weight, weight_form
from shoal.model.weights import DenseWeight, WeightSource
from shoal.protocol.language_messages import Step, StepId
from shoal.protocol.stage_config import StageConfig
from shoal.protocol.worker_messages import Generation

_GELU = 1
"""Source: enum Activation, native/layers/args.h"""


class AudioEncoder:
    """Encodes clips one at a time: a single clip has enough rows for efficient products."""

    def __init__(
        self,
        source: WeightSource,
        encoder: EncoderConfig,
        config: StageConfig,
        form: ForcedForm,
        pool: _native.ThreadPool,
        kept: KeptWeights | None = None,
    ) -> None:
        """
        Args:
            source: of the whole model.
            encoder: its encoder.
            config: of the first stage of the decoder, which the encoder belongs to.
            form: by which instruction set it must be computed.
            pool: the compute threads.
            kept: where packed weights are kept; None: nowhere.
        """
        own = EncoderSource(source, encoder)
        self._encoder, self._pool, self._isa = encoder, pool, form.isa
        num_positions = encoder.num_positions
        dtype = whole_kv_dtype(encoder.layers, config.precision, exact_activations=config.exact_activations)
        block_size = whole_block_size(dtype, num_positions, config.block_size)
        num_blocks = -(-num_positions // block_size)
        self._layers = NativeLayers(
            own,
            replace(
                config,
                first_layer=0,
                last_layer=encoder.layers.num_layers,
                num_blocks=num_blocks,
                block_size=block_size,
                max_step_tokens=num_positions,
                max_context=num_positions,
            ),
            form,
            vocab_size=0,
            kept=kept,
            pool=pool,
            unit_prefix="encoder.",
        )
        has_codes = dtype is np.uint8
        self._convolutions = [self._convolution(own, "conv1"), self._convolution(own, "conv2", has_codes=has_codes)]
        self._positions = position_rows(own, num_positions)
        self._step = _whole_clip(num_positions, num_blocks)
        self._frames = np.zeros((encoder.num_frames + 2, encoder.num_mels), np.float32)
        """Input of the first convolution, with a frame of zeros at each end."""
        self._between = np.zeros((encoder.num_frames + 2, encoder.layers.hidden_size), np.float32)
        """Input of the second convolution, with a frame of zeros at each end."""
        self._x = np.empty((num_positions, encoder.layers.hidden_size), np.float32)
        self.weight_bytes = self._layers.weight_bytes
        """Bytes of the layers' matrices."""

    def encode(self, features_FM: F32) -> F32:
        """A clip's hidden states after the final norm, [P, D]. Raises ValueError for features of another shape."""
        encoder = self._encoder
        if features_FM.shape != (encoder.num_frames, encoder.num_mels):
            raise ValueError(f"features of the shape {features_FM.shape} are of no clip")
        self._frames[1:-1] = features_FM
        self._convolve(0, self._frames, 1, self._between[1:-1])
        self._convolve(1, self._between, 2, self._x)
        self._x += self._positions
        self._layers.run(self._x, self._step, None)
        return self._layers.hidden(range(encoder.num_positions))

    def _convolve(self, index: int, padded_TC: F32, stride: int, out: F32) -> None:
        """A convolution followed by GELU."""
        matrix, bias = self._convolutions[index]
        num_channels = padded_TC.shape[1]
        windows = np.lib.stride_tricks.sliding_window_view(padded_TC.reshape(-1), CONV_TAPS * num_channels)
        rows = windows[:: stride * num_channels]
        _native.multiply(self._pool, matrix, rows, False, self._isa, out, bias, activation=_GELU)

    def _convolution(self, source: EncoderSource, name: str, *, has_codes: bool = False) -> tuple[_native.Matrix, F32]:
        """The matrix over neighboring frames, [D, taps C], and its bias. `has_codes`: the matrix is held in 8 bits."""
        bias = source.vector(f"{name}_bias")
        weights_DCK = source.vector(name).reshape(len(bias), -1, CONV_TAPS)
        weights_NK = np.ascontiguousarray(weights_DCK.transpose(0, 2, 1)).reshape(len(bias), -1)
        weight = quantize_rows(weights_NK, 8) if has_codes else DenseWeight(values_NK=weights_NK)
        form = weight_form(weight)
        memory = own_memory(_native.layout_bytes(form))
        pack_weight(weight, form, self._pool, memory)
        return _native.Matrix(form, memory), bias


def _whole_clip(num_positions: int, num_blocks: int) -> Step:
    """A step with all rows of one sequence, whose KV blocks are all blocks of the cache."""

    def ints(*values: int) -> bytes:
        return np.array(values, "<i4").tobytes()

    return Step(
        step_id=StepId(0),
        generation=Generation(0),
        token_ids=ints(*(0,) * num_positions),
        positions=ints(*range(num_positions)),
        query_starts=ints(0, num_positions),
        context_lens=ints(num_positions),
        block_tables=ints(*range(num_blocks)),
        samples=(),
    )
