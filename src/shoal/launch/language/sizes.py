"""The sizes of a model for the planner, from its headers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from shoal.core.plan.state_room import num_state_slots
from shoal.model.attention.kv_storage import kv_dtype
from shoal.model.decoder.blocks import (
    LayerBytes,
    end_bytes,
    layer_bytes,
    layer_kv_bytes,
    layer_memory_bytes,
    layer_state_bytes,
)
from shoal.model.on_disk import ModelOnDisk
from shoal.model.weights import Precision
from shoal.planner.choice.costs.model_sizes import ModelSizes, PrecisionSizes

_HIDDEN_ITEM_BYTES = 4


def model_sizes(model: ModelOnDisk, precisions: Sequence[Precision], *, max_seqs: int) -> ModelSizes:
    """The sizes of a model at some precisions. `max_seqs`: sequences of a replica that run at once."""
    config, source = model.config, model.source
    num_states = num_state_slots(model.blocks(precisions[0]), max_seqs)

    def sizes(precision: Precision) -> PrecisionSizes:
        clip_bytes = layer_memory_bytes(config, kv_dtype(precision, exact_activations=False))
        layers = [
            _with_adapters(model, layer, layer_bytes(source, precision, layer)) for layer in range(config.num_layers)
        ]
        embedding_bytes, head_bytes = end_bytes(source, precision)
        return PrecisionSizes(
            attention_bytes=tuple(layer.attention for layer in layers),
            mlp_bytes=tuple(
                layer.mlp + num_states * (layer_state_bytes(config, index) + clip_bytes)
                for index, layer in enumerate(layers)
            ),
            embedding_bytes=embedding_bytes,
            head_bytes=head_bytes,
        )

    return ModelSizes(
        name=model.name,
        hidden_bytes=config.carried_width * _HIDDEN_ITEM_BYTES,
        kv_bytes_per_token=max(
            layer_kv_bytes(config, layer, kv_dtype(precision, exact_activations=False))
            for precision in precisions
            for layer in range(config.num_layers)
        ),
        layers_without_kv=tuple(
            layer
            for layer in range(config.num_layers)
            if not layer_kv_bytes(config, layer, kv_dtype("fp32", exact_activations=False))
        ),
        shares_kv=config.latent is not None,
        last_cut=config.last_cut,
        atoms=model.atoms,
        by_precision={precision: sizes(precision) for precision in precisions},
        max_context=config.max_context,
    )


def _with_adapters(model: ModelOnDisk, layer: int, held: LayerBytes) -> LayerBytes:
    attention, mlp = model.adapter_bytes(layer)
    return replace(held, attention=held.attention + attention, mlp=held.mlp + mlp)
