"""What the native stage is told about a decoder: its shapes, and which vectors its layers have."""

from __future__ import annotations

import numpy as np

from shoal import _native
from shoal.arrays import F32
from shoal.model.decoder_config import DecoderConfig
from shoal.model.formats.tensor_check import layer_shapes
from shoal.model.shard.source import ShardSource
from shoal.model.weights import WeightSource


def has_plain_end(decoder: DecoderConfig) -> bool:
    """Whether the last layer reads nothing but keys and values of the rows whose output is not used. The same on every
    shard. A layer that counts the rows of its experts needs all rows."""
    last = decoder.num_layers - 1
    is_causal = decoder.latent is None and decoder.encoder is None and not decoder.sees_all
    has_keys = decoder.has_attention(last) and decoder.kv_source(last) == last
    has_one_state = decoder.carried_width == decoder.hidden_size
    return is_causal and has_keys and has_one_state and decoder.layer_experts(last) is None


def unit_vectors(decoder: DecoderConfig, layer: int) -> dict[str, F32]:
    """Weights of 1 for norms that have none in the file."""
    has_keys = decoder.layer_recurrence(layer) is None and decoder.kv_source(layer) == layer
    if not decoder.unit_v_norm or not has_keys:
        return {}
    return {"v_norm": np.ones(decoder.layer_heads(layer).head_dim, np.float32)}


def gate_cut(source: WeightSource, layer: int) -> tuple[float, int] | None:
    """Number of standard deviations above their mean at which gates are cut, and the number of gates in the whole
    model's layer; None: they are not cut."""
    whole = source.whole_config if isinstance(source, ShardSource) else source.config
    deviations = whole.gate_cut(layer)
    return None if deviations is None else (deviations, whole.columns(layer))


def most_columns(decoder: DecoderConfig) -> int:
    """Most columns of a plain MLP, or of one beside experts."""
    beside = decoder.experts.shared_columns if decoder.experts is not None and decoder.experts.has_own_norms else 0
    return max(beside, decoder.intermediate_size, *decoder.layer_columns)


def layer_vectors(decoder: DecoderConfig, layer: int) -> tuple[str, ...]:
    """Names, without `layers.i.`, of a layer's vectors that are not attention's or a recurrence's own."""
    recurrence = decoder.layer_recurrence(layer)
    own = ("sinks",) if recurrence is None else recurrence.own_vectors
    own += ("q_norm", "k_norm") if decoder.norms_rotated else ()
    shapes = layer_shapes(decoder, layer)
    return tuple(name for name, shape in shapes.items() if len(shape) == 1 and shape != (0,) and name not in own)


def experts_shape(decoder: DecoderConfig) -> _native.ExpertsShape | None:
    """What all layers with experts have in common; None: the model has no experts."""
    experts = decoder.experts
    if experts is None:
        return None
    return _native.ExpertsShape(
        num_experts=experts.num_experts,
        num_chosen=experts.num_chosen,
        num_columns=experts.columns,
        num_shared_columns=0 if experts.has_own_norms else experts.shared_columns,
        has_sigmoid=experts.scoring == "sigmoid",
        is_normalized=experts.is_normalized,
        scale=experts.scale,
        num_groups=experts.num_groups,
        num_chosen_groups=experts.num_chosen_groups,
        num_group_scores=experts.num_group_scores,
        scales_input=experts.scales_input,
        mixer_limit=experts.mixer_limit,
    )


def streams_shape(decoder: DecoderConfig) -> _native.StreamsShape | None:
    """The shape of the residual streams; None: there is one stream."""
    altup = decoder.altup
    if altup is None:
        return None
    return _native.StreamsShape(
        num_streams=altup.num_streams, active=altup.active, scales_output=altup.scales_output, rank=altup.rank
    )


def latent_shape(decoder: DecoderConfig) -> _native.LatentShape | None:
    """The shape of all layers' latent attention; None: heads have keys and values of their own."""
    latent = decoder.latent
    if latent is None:
        return None
    return _native.LatentShape(
        query_rank=latent.query_rank,
        latent_dim=latent.latent_dim,
        plain_dim=latent.plain_dim,
        rotary_dim=latent.rotary_dim,
        value_dim=latent.value_dim,
        norm_epsilon=latent.norm_epsilon,
        is_interleaved=latent.is_interleaved,
    )
