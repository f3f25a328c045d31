"""A pipeline stage, or one shard of it: its layers and, at the ends, embedding and head.

Shapes: T tokens in the step, D hidden size, W values that rows carry from stage to stage (D except in a few families).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from shoal.arrays import F32
from shoal.core.collectives import SummingGroup
from shoal.errors import ConfigError
from shoal.model.adapter.adapter import Adapter
from shoal.model.adapter.files import with_adapters
from shoal.model.allocator import compact_loading
from shoal.model.decoder.embedding import picture_vectors, position_rows
from shoal.model.decoder.forced_form import ForcedForm
from shoal.model.decoder.sampling.exchanges import group_exchange, run_exchange
from shoal.model.decoder.sampling.sampling import sample_rows
from shoal.model.decoder.sampling.shard_sampling import sample_shard
from shoal.model.decoder.stage_layers import HEAD_ROWS, StageLayers, SumOverShards
from shoal.model.packed.kept_weights import KeptWeights
from shoal.model.shard.source import ShardSource
from shoal.model.weights import WeightSource
from shoal.protocol.language_messages import NO_TOKEN, AdapterFile, Encoding, SampledToken, SampleRow, Step
from shoal.protocol.stage_config import StageConfig
from shoal.protocol.step_masks import Masks, awaited

if TYPE_CHECKING:
    from shoal.model.decoder.audio_encoder import AudioEncoder

_COLLECTIVE_TIMEOUT_S = 600.0
"""How long a shard waits for the others' part of a layer before they count as lost. A death is noticed at once, and the
head decides which worker hangs (core/recovery/patience); this bounds the wait if the head itself hangs."""


class Stage:
    """Runs steps through a contiguous range of layers, together with the stage's other shards if there are several.

    Not thread-safe; one step at a time.
    """

    def __init__(
        self,
        source: WeightSource,
        config: StageConfig,
        on_progress: Callable[[int, int], None] | None = None,
        group: SummingGroup | None = None,
        kept: KeptWeights | None = None,
        form: ForcedForm | None = None,
        adapters: Sequence[AdapterFile] = (),
    ) -> None:
        """Read the stage's own weights and no others.

        Args:
            source: the whole model's weights.
            config: what to hold; with `part`, this is one shard of several.
            on_progress: called with (done, total) pieces of weights.
            group: all shards of the stage, if there are several. They must run the same steps.
            kept: the cache for packed weights; None: they are not kept.
            form: how the layers must be computed; None: in the best available way.
            adapters: of the model: those that requests may ask for, and those that are merged into the weights.
        """
        self._config = config
        self._group = group
        self.vocab_size = source.config.vocab_size
        """Vocabulary size of the whole model."""
        source, chosen = with_adapters(source, adapters)
        source = source if config.part is None else ShardSource(source, config.part)
        self.decoder = source.config
        """Settings with this shard's own counts of heads, columns and vocabulary rows."""
        adds_positions = self.decoder.learned_positions and self.is_first
        self._positions = position_rows(source, config.num_positions) if adds_positions else None
        with compact_loading():
            self._layers = self._load(source, config, on_progress, kept, form or ForcedForm(), chosen)
        self._encoder = self._load_encoder(source, config, kept, form or ForcedForm()) if self.is_first else None
        self.alignment = b""
        """Attention weights of this stage's heads in the latest step: see `StepResult.alignment`."""
        self._x = np.zeros((config.max_step_tokens, self.decoder.carried_width), np.float32)

    def _load(
        self,
        source: WeightSource,
        config: StageConfig,
        on_progress: Callable[[int, int], None] | None,
        kept: KeptWeights | None,
        form: ForcedForm,
        adapters: Sequence[Adapter],
    ) -> StageLayers:
        if form.is_native and form.device is None:
            from shoal.model.decoder.native.native_layers import NativeLayers  # needs the extension

            return NativeLayers(source, config, form, self.vocab_size, on_progress, kept, adapters=adapters)
        if adapters:
            raise ConfigError(
                "adapters are computed only by the native extension; merge one into the weights with --merge-lora"
            )
        if form.device is not None:
            from shoal.model.decoder.device.device_layers import DeviceLayers  # with ONNX Runtime

            return DeviceLayers(source, config, self.vocab_size, form.device, on_progress)
        from shoal.model.decoder.onnx.onnx_layers import OnnxLayers  # needs ONNX Runtime, 20 MB of a process

        return OnnxLayers(source, config, self.vocab_size, on_progress)

    def _load_encoder(
        self, source: WeightSource, config: StageConfig, kept: KeptWeights | None, form: ForcedForm
    ) -> AudioEncoder | None:
        encoder = self.decoder.encoder
        if encoder is None:
            return None
        from shoal.model.decoder.audio_encoder import AudioEncoder  # few models have one
        from shoal.model.decoder.native.native_layers import NativeLayers

        assert isinstance(self._layers, NativeLayers)
        return AudioEncoder(source, encoder, config, form, self._layers.pool, kept)

    @property
    def note(self) -> str | None:
        """What a user should know about how the stage is computed; None: nothing."""
        return self._layers.note

    @property
    def weight_bytes(self) -> int:
        """Resident bytes of weights."""
        return self._layers.weight_bytes + (0 if self._encoder is None else self._encoder.weight_bytes)

    @property
    def is_first(self) -> bool:
        """Whether this stage owns the embedding."""
        return self._config.first_layer == 0

    @property
    def is_last(self) -> bool:
        """Whether this stage owns the head and samples."""
        return self._config.last_layer == self.decoder.num_layers

    def expert_rows(self) -> list[list[int]]:
        """For each layer, how many rows have chosen each expert so far, whichever shard holds it; an empty list for
        layers without experts, and no lists at all in the ONNX form."""
        return self._layers.expert_rows()

    def touch_kv(self) -> None:
        """Allocate the KV cache's memory now, not when steps write to it, for measurements."""
        self._layers.touch_kv()

    def process(
        self, step: Step, x_TD: F32 | None = None, masks: Masks | None = None
    ) -> F32 | tuple[SampledToken, ...]:
        """Run one step. The first stage embeds the step's tokens; every other stage takes `x_TD` from its predecessor.

        If samples are guided, the last stage waits for `masks` once the logits of the first HEAD_ROWS are computed.

        The first stage encodes the step's clips, and appends the results to the hidden states for the layers of later
        stages: [T + clips P, W].

        Returns: the sampled tokens in the last stage, otherwise the next stage's input, [T, W]; the same on every
        shard.
        Valid until: the next `process`.
        Raises: ValueError if the step does not fit the KV cache, WorkerLost if another shard is gone.
        """
        memories = self._remember(step, x_TD)
        rows_TW = self._x[: step.num_tokens]
        sum_over_shards = self._sum_over_shards()
        if self.is_first:
            self._layers.embed(np.frombuffer(step.token_ids, "<i4"), rows_TW, sum_over_shards)
            self._show(step, rows_TW)
            if self._positions is not None:
                rows_TW += self._positions[np.frombuffer(step.positions, "<i4")]
        else:
            assert x_TD is not None
            rows_TW[:] = x_TD[: step.num_tokens]
        out_TW = self._layers.run(rows_TW, step, sum_over_shards)
        self.alignment = self._layers.alignment if step.alignment else b""
        if self.is_last:
            return self._sample(step.samples, masks)
        return np.concatenate([out_TW, *memories]) if memories else out_TW

    def _show(self, step: Step, rows_TW: F32) -> None:
        """Write the vectors of pictures to their rows, the same on every shard."""
        for rows in step.pictures:
            embeddings_ND = picture_vectors(rows, self.decoder)[:, 0]
            rows_TW[rows.first_row : rows.first_row + rows.num_rows] = embeddings_ND

    def _remember(self, step: Step, x_TD: F32 | None) -> list[F32]:
        """Store the encoder's output for each clip of the step in the clip's slot, and return these outputs."""
        memories: list[F32] = []
        for index, encoding in enumerate(step.encodings):
            memories.append(self._encode(encoding) if x_TD is None else self._arrived(x_TD, step, index))
            self._layers.remember(encoding.slot, memories[-1])
        return memories

    def _encode(self, encoding: Encoding) -> F32:
        if self._encoder is None or self.decoder.encoder is None:
            raise ValueError("the model has no encoder")
        shape = self.decoder.encoder.num_frames, self.decoder.encoder.num_mels
        features = np.frombuffer(encoding.features, "<f4")
        if features.size != shape[0] * shape[1]:
            raise ValueError(f"a clip of {features.size} values is not one of {shape[0]} frames of {shape[1]} mels")
        return self._encoder.encode(features.reshape(shape))

    def _arrived(self, x_TD: F32, step: Step, index: int) -> F32:
        """The output of the first stage's encoder for a clip."""
        encoder = self.decoder.encoder
        if encoder is None:
            raise ValueError("the model has no encoder")
        start = step.num_tokens + index * encoder.num_positions
        return x_TD[start : start + encoder.num_positions]

    def _sum_over_shards(self) -> SumOverShards | None:
        """How to sum over shards; None: the stage is not sharded. A shard that is measured alone has no group, so its
        own term is the sum."""
        if self._config.part is None:
            return None
        return _own_term if self._group is None else self._group.sum_within(_COLLECTIVE_TIMEOUT_S)

    def _sample(self, samples: Sequence[SampleRow], masks: Masks | None) -> tuple[SampledToken, ...]:
        """Compute logits for the rows that are sampled, but not for those whose hidden state is wanted."""
        drawn = [sample for sample in samples if not sample.want_hidden]
        tokens: dict[int, SampledToken] = {}
        for start in range(0, len(drawn), HEAD_ROWS):
            numbers = [row.row for row in drawn[start : start + HEAD_ROWS]]
            logits_RV = self._layers.logits(numbers)
            if not start:
                drawn = awaited(drawn, masks)
            fresh = self._draw(logits_RV, drawn[start : start + HEAD_ROWS])
            tokens.update(zip(numbers, fresh, strict=True))
        wanted = [sample.row for sample in samples if sample.want_hidden]
        for start in range(0, len(wanted), HEAD_ROWS):
            numbers = wanted[start : start + HEAD_ROWS]
            for number, hidden_D in zip(numbers, self._layers.hidden(numbers), strict=True):
                tokens[number] = _as_vector(hidden_D)
        return tuple(tokens[sample.row] for sample in samples)

    def _draw(self, logits_RV: F32, rows: Sequence[SampleRow]) -> list[SampledToken]:
        part, group = self._config.part, self._group
        if part is None or group is None:
            return sample_rows(logits_RV, rows, self._layers.look_over)
        sampling = sample_shard(logits_RV, rows, first_id=part.vocabulary[0], vocab_size=self.vocab_size)
        return run_exchange(sampling, group_exchange(group, timeout_s=_COLLECTIVE_TIMEOUT_S))


def _as_vector(hidden_D: F32) -> SampledToken:
    if not np.isfinite(hidden_D).all():
        return SampledToken(token_id=NO_TOKEN)
    return SampledToken(token_id=0, hidden=hidden_D.astype("<f4").tobytes())


def _own_term(x: F32) -> None:
    """The sum for a shard that is measured alone."""
