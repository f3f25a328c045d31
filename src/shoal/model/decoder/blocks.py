"""A decoder as the planner sees it: embedding, layers and head, each with its bytes and its arithmetic.

Bytes are those that a worker's process holds, to a few percent: tests/model/decoder/test_memory.py compares them with
what processes take, for every form of weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from shoal.core.plan.language import Block
from shoal.model.attention.kv_storage import KvType, kv_bytes_per_token, kv_dtype, whole_kv_dtype
from shoal.model.attention.paged_attention import native_available
from shoal.model.decoder.process_bytes import code_bytes
from shoal.model.decoder_config import DecoderConfig
from shoal.model.encoder_source import EncoderSource
from shoal.model.formats.tensor_check import CONV_TAPS, Shape, first_shapes, last_shapes, layer_shapes
from shoal.model.layer_config.attention import LatentConfig
from shoal.model.packed.pack import packed_bytes
from shoal.model.weights import Precision, WeightSource
from shoal.protocol.stage_config import BLOCK_SIZE, ExpertSpan

_FP32_BYTES = 4
_ROWS_OF_CLIP = 500
"""Rows that a decoder computes for a clip, over which its encoder's work is spread: 30 s of speech are about 100
tokens, in five hypotheses. A judgment, as clips differ."""
_ATTENTION_MATRICES = ("q", "k", "v", "o", "q_gate", "q_down", "latent_down", "k_up", "v_up")
_CROSS_PREFIX = "cross_"


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerBytes:
    """Bytes of a layer's matrices in a worker."""

    attention: int
    """Matrices that are cut by KV heads."""
    mlp: int
    """Matrices that are cut by columns, including all experts and recurrent matrices."""
    experts: int = 0
    """The part of `mlp` that belongs to experts."""


def decoder_blocks(source: WeightSource, precision: Precision, *, exact_activations: bool = False) -> list[Block]:
    """The blocks [embedding, layer 0, ..., head], from headers alone. `exact_activations`: see `StageConfig`."""
    layers = [layer_bytes(source, precision, layer) for layer in range(source.config.num_layers)]
    kv_type = kv_dtype(precision, exact_activations=exact_activations)
    kv_bytes = [layer_kv_bytes(source.config, layer, kv_type) for layer in range(source.config.num_layers)]
    memory_type = whole_kv_dtype(source.config, precision, exact_activations=exact_activations)
    memory_bytes = layer_memory_bytes(source.config, memory_type)
    return _blocks(source, end_bytes(source, precision), layers, kv_bytes, memory_bytes)


def end_bytes(source: WeightSource, precision: Precision) -> tuple[int, int]:
    """Bytes of the embedding, including an encoder and whatever else only a first stage has, and bytes of the head,
    which may be the embedding: see `core.plan.language.held_bytes`."""
    beside = _matrix_bytes(source, first_shapes(source.config), precision) + encoder_bytes(source, precision)
    return _held_bytes(source, "embedding", precision) + beside, _held_bytes(source, "head", precision)


def _matrix_bytes(source: WeightSource, shapes: Mapping[str, Shape], precision: Precision) -> int:
    return sum(_held_bytes(source, name, precision) for name, shape in shapes.items() if len(shape) == 2)


def layer_kv_bytes(config: DecoderConfig, layer: int, dtype: KvType) -> int:
    """KV bytes of a token in one layer; 0 if the layer has no attention, or attends over another layer's keys."""
    if not config.has_attention(layer) or config.kv_source(layer) != layer:
        return 0
    heads = config.layer_heads(layer)
    return kv_bytes_per_token(replace(config, num_kv_heads=heads.num_kv_heads, head_dim=heads.head_dim), 1, dtype)


def layer_state_bytes(config: DecoderConfig, layer: int) -> int:
    """Bytes of a sequence's state in one layer; 0 if the layer is not recurrent."""
    recurrence = config.layer_recurrence(layer)
    return 0 if recurrence is None else _FP32_BYTES * recurrence.state_floats


def layer_memory_bytes(config: DecoderConfig, dtype: KvType) -> int:
    """Bytes that one layer keeps of an encoder's output for a clip; 0 without an encoder."""
    if config.encoder is None:
        return 0
    positions = -(-config.encoder.num_positions // BLOCK_SIZE) * BLOCK_SIZE
    return positions * kv_bytes_per_token(config, 1, dtype)


def encoder_bytes(source: WeightSource, precision: Precision) -> int:
    """Bytes of an encoder in the first stage, including its working memory; 0 without an encoder."""
    encoder = source.config.encoder
    if encoder is None:
        return 0
    own, layers = EncoderSource(source, encoder), encoder.layers
    matrices = sum(
        held.attention + held.mlp for held in (layer_bytes(own, precision, one) for one in range(layers.num_layers))
    )
    hidden, rows = layers.hidden_size, encoder.num_positions
    convolutions = CONV_TAPS * hidden * (encoder.num_mels + hidden)
    floats = 3 * hidden + 5 * hidden + layers.intermediate_size + 2 * hidden
    codes = code_bytes(2 * hidden + layers.intermediate_size, exact_activations=True)
    return matrices + _FP32_BYTES * (convolutions + rows * floats) + rows * codes


def layer_bytes(source: WeightSource, precision: Precision, layer: int) -> LayerBytes:
    """Bytes of a layer's matrices; the last layer includes what lies between it and the head. All experts are assumed
    to take as much as the first one."""
    config = source.config
    experts = config.layer_experts(layer)
    attention = mlp = first = 0
    for leaf in matrix_leaves(config, layer):
        held = _held_bytes(source, f"layers.{layer}.{leaf}", precision)
        if leaf.rpartition(".")[2].removeprefix(_CROSS_PREFIX) in _ATTENTION_MATRICES:
            attention += held
        elif leaf.startswith("experts."):
            first += held
        else:
            mlp += held
    if layer == config.num_layers - 1:
        mlp += _matrix_bytes(source, last_shapes(config), precision)
    all_experts = first * len(experts.numbers_in(layer)) if experts is not None else 0
    return LayerBytes(attention=attention, mlp=mlp + all_experts, experts=all_experts)


def matrix_leaves(config: DecoderConfig, layer: int) -> list[str]:
    """Names of a layer's matrices; of the experts, only those of the first."""
    experts = config.layer_experts(layer)
    one = config
    if experts is not None:
        first = tuple(ExpertSpan(expert, expert + 1) for expert in experts.numbers_in(layer)[:1])
        one = replace(config, experts=replace(experts, held=(first,)))
    return [leaf for leaf, shape in layer_shapes(one, layer).items() if len(shape) == 2]


def _held_bytes(source: WeightSource, name: str, precision: Precision) -> int:
    """Bytes of a matrix in a worker: its packed form or, without the native extension, what ONNX Runtime is given."""
    return packed_bytes(source, name, precision) if native_available() else source.matrix_bytes(name, precision)


def _blocks(
    source: WeightSource,
    ends: Sequence[int],
    layers: Sequence[LayerBytes],
    kv_bytes: Sequence[int],
    memory_bytes: int,
) -> list[Block]:
    config = source.config
    hidden_bytes = config.carried_width * _FP32_BYTES
    embedding = Block(
        name="embedding",
        weight_bytes=ends[0],
        flops_per_token=encoder_flops(config) / _ROWS_OF_CLIP,
        kv_bytes_per_token=0,
        output_bytes_per_token=hidden_bytes,
    )
    head = Block(
        name="head",
        weight_bytes=ends[1],
        flops_per_token=2.0 * config.vocab_size * config.hidden_size,
        kv_bytes_per_token=0,
        output_bytes_per_token=_FP32_BYTES,
        same_weights_as="embedding" if config.tied_embeddings and native_available() else "",
    )
    return [
        embedding,
        *(
            Block(
                name=f"layer.{layer}",
                weight_bytes=held.attention + held.mlp,
                flops_per_token=_layer_flops(config, layer),
                kv_bytes_per_token=kv_bytes[layer],
                keeps_clips=memory_bytes > 0,
                state_bytes=layer_state_bytes(config, layer) + memory_bytes,
                output_bytes_per_token=hidden_bytes,
                can_begin=layer <= config.last_cut,
                expert_bytes=held.experts,
                expert_share=config.experts.num_chosen / config.experts.num_experts if config.experts else 1.0,
            )
            for layer, held in enumerate(layers)
        ),
        head,
    ]


def memory_flops(config: DecoderConfig) -> float:
    """Floating-point operations of one layer's keys and values over an encoder's output for a clip; 0 without an
    encoder."""
    if config.encoder is None:
        return 0.0
    return 4.0 * config.encoder.num_positions * config.hidden_size * config.num_kv_heads * config.head_dim


def encoder_flops(config: DecoderConfig) -> float:
    """Floating-point operations of an encoder for one clip; 0 without an encoder."""
    encoder = config.encoder
    if encoder is None:
        return 0.0
    layers, rows = encoder.layers, encoder.num_positions
    matrices = sum(_layer_flops(layers, layer) for layer in range(layers.num_layers))
    scores = 4.0 * rows * layers.hidden_size * layers.num_layers
    convolutions = 2.0 * CONV_TAPS * layers.hidden_size * (2 * encoder.num_mels + layers.hidden_size)
    return rows * (matrices + scores + convolutions)


def _layer_flops(config: DecoderConfig, layer: int) -> float:
    """Floating-point operations for a token: two for each weight that it passes through."""
    recurrence, heads = config.layer_recurrence(layer), config.layer_heads(layer)
    num_keys = heads.num_kv_heads * ((config.kv_source(layer) == layer) + config.has_values(layer))
    mixer = ((2.0 + config.gates_attention) * config.num_heads + num_keys) * heads.head_dim
    if layer in config.no_mixer_layers:
        mixer = 0.0
    elif recurrence is not None:
        mixer = recurrence.in_width + recurrence.out_width
    elif config.encoder is not None:
        mixer += 2.0 * config.num_heads * config.head_dim  # q and o over the encoder's output
    elif config.latent is not None:
        mixer = _latent_weights(config, config.latent) / config.hidden_size
    experts = config.layer_experts(layer)
    router = 0 if experts is None else experts.num_experts
    matrices = 3 if config.gated_mlp else 2
    beside = 0 if config.layer_inputs is None else 2 * config.layer_inputs.width
    beside += 0 if config.altup is None else 2 * config.altup.rank
    return 2.0 * config.hidden_size * (mixer + matrices * config.active_columns(layer) + router + beside)


def _latent_weights(config: DecoderConfig, latent: LatentConfig) -> float:
    """Number of weights in the matrices of a layer's latent attention."""
    hidden, rank = config.hidden_size, latent.query_rank
    down = (rank + latent.key_dim) * hidden
    heads = config.num_heads * latent.latent_dim * (latent.plain_dim + latent.value_dim)
    return float(config.query_columns * (rank or hidden) + down + heads + config.result_columns * hidden)
