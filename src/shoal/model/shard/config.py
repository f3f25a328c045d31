"""The settings of a shard, as those of a smaller model."""

from __future__ import annotations

from dataclasses import replace

from shoal.model.decoder_config import DecoderConfig
from shoal.model.layer_config.experts import ExpertsConfig
from shoal.model.layer_config.variants import HeadShape, LayerInputs
from shoal.model.recurrence.kinds import RecurrenceConfig
from shoal.model.shard.ranges import at_share, length, recurrent_pieces, same_share, table_rows
from shoal.protocol.stage_config import MAX_TURNS, ShardPart


def shard_config(config: DecoderConfig, part: ShardPart) -> DecoderConfig:
    """The settings of one shard of a model, as a model with its own numbers of heads, columns and vocabulary rows.

    Raises:
        ValueError: the model has no such part.
    """
    limits = {"kv_heads": config.num_head_groups, "columns": config.share_columns, "vocabulary": config.vocab_size}
    for axis, limit in limits.items():
        first, last = getattr(part, axis)
        if not 0 <= first <= last <= limit:
            raise ValueError(f"{axis} [{first}, {last}) of a shard are not within the model's {limit}")
    _check_experts(config, part)
    num_groups = length(part.kv_heads)
    return replace(
        config,
        num_heads=num_groups * (config.num_heads // config.num_head_groups),
        num_kv_heads=num_groups if config.latent is None else min(num_groups, config.num_kv_heads),
        full_heads=None if config.full_heads is None else _shard_heads(config.full_heads, config, part),
        intermediate_size=length(same_share(part.columns, config.share_columns, config.intermediate_size)),
        layer_columns=tuple(
            length(same_share(part.columns, config.share_columns, columns)) for columns in config.layer_columns
        ),
        layer_inputs=None if config.layer_inputs is None else _shard_inputs(config, part),
        experts=None if config.experts is None else _shard_experts(config.experts, part),
        recurrence=_shard_recurrence(config, part),
        vocab_size=part.vocabulary[1] - part.vocabulary[0],
    )


def _shard_heads(heads: HeadShape, config: DecoderConfig, part: ShardPart) -> HeadShape:
    own = at_share(part.kv_heads, config.num_kv_heads, heads.num_kv_heads)
    return replace(heads, num_kv_heads=length(own))


def _shard_inputs(config: DecoderConfig, part: ShardPart) -> LayerInputs:
    assert config.layer_inputs is not None
    return replace(config.layer_inputs, vocab_size=length(table_rows(config, part)))


def _shard_experts(experts: ExpertsConfig, part: ShardPart) -> ExpertsConfig:
    shared = same_share(part.columns, experts.columns, experts.shared_columns)
    columns = experts.columns if part.experts else length(part.columns)
    return replace(experts, columns=columns, shared_columns=length(shared), held=part.experts)


def _check_experts(config: DecoderConfig, part: ShardPart) -> None:
    if not part.experts:
        return
    if config.experts is None:
        raise ValueError("a shard holds experts of a model that has none")
    if len(part.experts) not in (1, config.num_layers):
        raise ValueError(f"experts of {len(part.experts)} layers, but the model has {config.num_layers}")
    for spans in part.experts:
        reached = 0
        for span in spans:
            if not reached <= span.first < span.last <= config.experts.num_experts:
                raise ValueError(
                    f"experts [{span.first}, {span.last}) of a shard are not {reached} or later of the "
                    f"model's {config.experts.num_experts}"
                )
            if not 1 <= span.num_turns <= MAX_TURNS or not 1 <= span.turns < 1 << span.num_turns:
                raise ValueError(f"turns {span.turns:b} of {span.num_turns} cannot be")
            reached = span.last


def _shard_recurrence(config: DecoderConfig, part: ShardPart) -> RecurrenceConfig | None:
    if config.recurrence is None:
        return None
    return config.recurrence.with_pieces(length(recurrent_pieces(config.recurrence, config, part)))
