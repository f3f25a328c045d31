"""The properties of a model at one precision that measuring needs."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import msgspec

from shoal.core.plan.language import Block
from shoal.core.plan.shard_atoms import ShardAtoms
from shoal.model.decoder.blocks import encoder_flops, memory_flops
from shoal.model.decoder_config import DecoderConfig
from shoal.model.on_disk import ModelOnDisk
from shoal.model.weights import Precision
from shoal.planner.speeds.clips import ClipWork
from shoal.planner.speeds.step_points import LayerWeights


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelToTime:
    """A model at one precision, from its headers."""

    path: Path
    precision: Precision
    blocks: Sequence[Block]
    """Embedding, layers, head."""
    atoms: ShardAtoms
    weights: LayerWeights
    clip: ClipWork | None = None
    """The work of its encoder for a clip; None: it has no encoder."""
    shape: str
    """Digest of everything on which its speed depends."""

    @property
    def num_layers(self) -> int:
        return len(self.blocks) - 2


def model_to_time(model: ModelOnDisk, precision: Precision) -> ModelToTime:
    """Read a model's headers for measuring. Raises ModelLoadError."""
    blocks, config = model.blocks(precision), model.config
    clip = clip_work(config)
    figures = (asdict(config), [block.weight_bytes for block in blocks], precision, *([clip] if clip else []))
    return ModelToTime(
        path=model.path,
        precision=precision,
        blocks=blocks,
        atoms=model.atoms,
        weights=layer_weights(config),
        clip=clip,
        shape=hashlib.sha256(msgspec.json.encode(figures, order="deterministic")).hexdigest()[:32],
    )


def clip_work(config: DecoderConfig) -> ClipWork | None:
    """The work for a clip in a model with an encoder; None: it has no encoder."""
    if config.encoder is None:
        return None
    return ClipWork(
        encoder_flops=encoder_flops(config),
        layer_flops=memory_flops(config),
        num_rows=config.encoder.num_positions,
    )


def layer_weights(config: DecoderConfig) -> LayerWeights:
    """The average distribution of a layer's weights over its matrices, counting the weights that a token uses."""
    heads, kv_heads = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    into_attention = config.hidden_size * (heads + 2 * kv_heads)
    out_of_attention = config.hidden_size * heads
    columns = sum(map(config.active_columns, range(config.num_layers))) / config.num_layers
    mlp = 3 * config.hidden_size * columns
    total = into_attention + out_of_attention + mlp
    return LayerWeights(mlp=mlp / total, behind_attention=(out_of_attention + mlp) / total)
