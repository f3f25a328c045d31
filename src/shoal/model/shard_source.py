"""One shard's part of a model's weights, as if it were a smaller model.

Attention is cut by KV heads with the query heads that read them, or latent attention by query heads, each shard with
all latent rows; the MLP by columns (or whole experts are dealt out),
embedding and head by vocabulary rows: matrices into which the hidden state goes by rows, matrices out of which it comes
by columns. Each shard's `o` and `down` products are then partial sums of the whole ones.
Source: Megatron-LM, arXiv 1909.08053, section 3.
"""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from math import gcd, lcm

import numpy as np

from shoal.arrays import F32
from shoal.core.plan.shard_atoms import ShardAtoms
from shoal.model.decoder_config import DecoderConfig, ExpertsConfig
from shoal.model.layer_variants import HeadShape, LayerInputs
from shoal.model.recurrence.kinds import RecurrenceConfig
from shoal.model.weights import BLOCK, KeptRows, Packing, Precision, Range, Weight, WeightSource
from shoal.protocol.stage_config import MAX_TURNS, ShardPart

VOCAB_ATOM = 32
"""Vocabulary rows in a piece: a whole number of vector registers of logits on every processor (16 fp32 in AVX-512)."""


def shard_atoms(config: DecoderConfig) -> ShardAtoms:
    """Into what a model can be cut, however its weights are quantized."""
    return ShardAtoms(
        num_kv_heads=config.num_head_groups,
        kv_heads_per_atom=_heads_together(config),
        intermediate_size=config.share_columns,
        column_atom=BLOCK,
        vocab_size=config.vocab_size,
        vocab_atom=VOCAB_ATOM,
        num_experts=config.experts.num_experts if config.experts is not None else 0,
    )


def _heads_together(config: DecoderConfig) -> int:
    """Groups of heads that must stay on one shard: all, where queries and keys have norms over all of them. Where some
    layers have fewer KV heads, those with as many as one of these.
    """
    if config.joins_qk_norm:
        return config.num_kv_heads
    together = _heads_of_whole_blocks(config.result_columns, config.num_head_groups)
    if config.full_heads is None:
        return together
    of_full = _heads_of_whole_blocks(config.num_heads * config.full_heads.head_dim, config.full_heads.num_kv_heads)
    ratio = Fraction(config.num_kv_heads * of_full, config.full_heads.num_kv_heads).numerator
    return min(lcm(together, ratio), config.num_kv_heads)


def _heads_of_whole_blocks(result_columns: int, num_groups: int) -> int:
    """Groups of heads whose columns of `o` are whole quantization blocks."""
    if result_columns % BLOCK:
        return 1  # `o` is dense at any precision
    return BLOCK // gcd(BLOCK, result_columns // num_groups)


def whole_part(config: DecoderConfig) -> ShardPart:
    """Everything: the part of the only shard of a stage."""
    return ShardPart(
        kv_heads=(0, config.num_head_groups), columns=(0, config.share_columns), vocabulary=(0, config.vocab_size)
    )


class ShardSource:
    """A shard's own rows and columns of another source, read when asked for. Implements `WeightSource`.

    Norms are whole on every shard. Raises ValueError for a part that the model does not have.
    """

    def __init__(self, source: WeightSource, part: ShardPart) -> None:
        self._source = source
        self._part = part
        self._config = _shard_config(source.config, part)

    @property
    def config(self) -> DecoderConfig:
        """The shard's own: its numbers of heads, columns and vocabulary rows. Heads may be none."""
        return self._config

    @property
    def whole_config(self) -> DecoderConfig:
        """That of the model which this is a part of."""
        return self._source.config

    @property
    def part(self) -> ShardPart:
        return self._part

    def matrix(
        self, name: str, precision: Precision, *, rows: Range | None = None, columns: Range | None = None
    ) -> Weight:
        """The shard's part of a matrix, or of that the rows and columns counted within the part. See `WeightSource`."""
        own_rows, own_columns = self._own_range(name, rows, columns)
        return self._source.matrix(self._own_name(name), precision, rows=own_rows, columns=own_columns)

    def matrix_bytes(
        self, name: str, precision: Precision, *, rows: Range | None = None, columns: Range | None = None
    ) -> int:
        """What `matrix(...).num_bytes` would be, from the header alone."""
        own_rows, own_columns = self._own_range(name, rows, columns)
        return self._source.matrix_bytes(self._own_name(name), precision, rows=own_rows, columns=own_columns)

    def packing(
        self, name: str, precision: Precision, *, rows: Range | None = None, columns: Range | None = None
    ) -> Packing:
        """How the native kernels hold the shard's part of a matrix. See `WeightSource`."""
        own_rows, own_columns = self._own_range(name, rows, columns)
        return self._source.packing(self._own_name(name), precision, rows=own_rows, columns=own_columns)

    def raw_rows(
        self, name: str, precision: Precision, *, rows: Range | None = None, columns: Range | None = None
    ) -> KeptRows | None:
        """The shard's part of a matrix as it lies in the file. See `WeightSource`."""
        own_rows, own_columns = self._own_range(name, rows, columns)
        return self._source.raw_rows(self._own_name(name), precision, rows=own_rows, columns=own_columns)

    def release_pages(self) -> None:
        """See `WeightSource`."""
        self._source.release_pages()

    def vector(self, name: str, *, span: Range | None = None) -> F32:
        """The shard's items of a bias, or a whole norm. See `WeightSource`.

        The bias of an expert's `down` belongs to a sum over shards once: where experts are cut by columns, the shard
        with the first columns has it, the others have zeros.
        """
        values = self._source.vector(name, span=_within(self._rows(name.removesuffix("_bias")), span))
        is_cut = ".experts." in name and not self._part.experts
        is_another_s = is_cut and name.endswith(".down_bias") and self._part.columns[0] > 0
        return np.zeros_like(values) if is_another_s else values

    def ranges_of(self, name: str) -> tuple[Range | None, Range | None]:
        """The part's rows and columns in a whole matrix; None: all."""
        return self._rows(name), self._columns(name)

    def _own_range(self, name: str, rows: Range | None, columns: Range | None) -> tuple[Range | None, Range | None]:
        return _within(self._rows(name), rows), _within(self._columns(name), columns)

    def _own_name(self, name: str) -> str:
        """That of the whole: matrices of single heads are counted from the shard's first one."""
        before, heads, rest = name.rpartition(".heads.")
        if not heads:
            return name
        head, _, leaf = rest.partition(".")
        return f"{before}{heads}{self._part.kv_heads[0] + int(head)}.{leaf}"

    def _rows(self, name: str) -> Range | None:
        """The part's rows in the whole matrix; None: all."""
        recurrence, leaf = self._source.config.recurrence, name.rpartition(".")[2]
        if recurrence is not None and (factor := recurrence.rows_of_piece(leaf)):
            return _times(_pieces(recurrence, self._source.config, self._part), factor)
        own = self._config.recurrence
        if own is not None and leaf.removesuffix("_taps") in own.inputs and not own.num_pieces:
            return (0, 0)
        match name.rpartition(".")[2]:
            case "embedding" | "head":
                return self._part.vocabulary
            case "layer_embedding":
                return _table_rows(self._source.config, self._part)
            case "gate" | "up" | "shared_gate" | "shared_up":
                return self._mlp_columns(name)
            case "sinks":
                return _times(self._part.kv_heads, self._source.config.num_heads // self._source.config.num_kv_heads)
            case "q" | "q_gate":
                return self._query_columns(name)
            case "q_norm" if self._config.parts_qk_norm:
                return self._query_columns(name)
            case "k_norm" if self._config.parts_qk_norm:
                return self._key_columns(name)
            case "k" | "v":
                return self._key_columns(name)
            case "q_down" | "latent_down" if not self._config.num_heads:
                return (0, 0)
            case _:
                return None

    def _columns(self, name: str) -> Range | None:
        recurrence, leaf = self._source.config.recurrence, name.rpartition(".")[2]
        if recurrence is not None and (factor := recurrence.columns_of_piece(leaf)):
            return _times(_pieces(recurrence, self._source.config, self._part), factor)
        match name.rpartition(".")[2]:
            case "o":
                return self._query_columns(name, results=True)
            case "down" | "shared_down":
                return self._mlp_columns(name)
            case _:
                return None

    def _query_columns(self, name: str, *, results: bool = False) -> Range:
        """The part's columns of the queries, or of the results, of the layer that a matrix belongs to."""
        whole, heads = self._source.config, self._source.config.layer_heads(_layer_of(name))
        if heads == whole.full_heads:
            own = _heads_of_layer(self._part, whole, name)
            return _times(own, whole.num_heads * heads.head_dim // heads.num_kv_heads)
        return _times(
            self._part.kv_heads, (whole.result_columns if results else whole.query_columns) // self._num_groups
        )

    def _key_columns(self, name: str) -> Range:
        heads = self._source.config.layer_heads(_layer_of(name))
        return _times(_heads_of_layer(self._part, self._source.config, name), heads.head_dim)

    def _mlp_columns(self, name: str) -> Range | None:
        """The part's columns of the MLP that a matrix belongs to; None: all, of an expert that is held whole."""
        config = self._source.config
        experts = config.experts
        if ".experts." in name:
            return None if self._part.experts else self._part.columns
        is_shared = name.rpartition(".")[2].startswith("shared_")
        total = experts.shared_columns if experts is not None and is_shared else config.columns(_layer_of(name))
        return same_share(self._part.columns, config.share_columns, total)

    @property
    def _num_groups(self) -> int:
        """Of query heads that stay together, of the whole."""
        return self._source.config.num_head_groups


def _layer_of(name: str) -> int:
    """The number in the name of a layer's matrix."""
    return int(name.split(".")[1])


def _heads_of_layer(part: ShardPart, whole: DecoderConfig, name: str) -> Range:
    """The part's key heads of the layer that a matrix belongs to."""
    count = whole.layer_heads(_layer_of(name)).num_kv_heads
    return _at_share(part.kv_heads, whole.num_kv_heads, count)


def _at_share(given: Range, of: int, total: int) -> Range:
    return given[0] * total // of, given[1] * total // of


def _table_rows(whole: DecoderConfig, part: ShardPart) -> Range:
    """The part's rows of the table of layers' inputs, which may have fewer than the vocabulary."""
    assert whole.layer_inputs is not None
    first, last = (min(edge, whole.layer_inputs.vocab_size) for edge in part.vocabulary)
    return first, last


def _pieces(recurrence: RecurrenceConfig, whole: DecoderConfig, part: ShardPart) -> Range:
    """Pieces of the recurrent layers that a shard has: as large a part as that of the MLP's columns."""
    return same_share(part.columns, whole.share_columns, recurrence.num_pieces, atom=recurrence.piece_atom)


def same_share(columns: Range, of: int, total: int, *, atom: int = BLOCK) -> Range:
    """The columns of an MLP of another size at which a shard is cut off, in whole quantization blocks, or in `atom` of
    something else. Neighbors' ranges follow each other as `columns` do; one may be empty."""

    def edge(column: int) -> int:
        return total if column == of else column if total == of else column * total // of // atom * atom

    return edge(columns[0]), edge(columns[1])


def _shard_config(config: DecoderConfig, part: ShardPart) -> DecoderConfig:
    limits = {"kv_heads": config.num_head_groups, "columns": config.share_columns, "vocabulary": config.vocab_size}
    for axis, limit in limits.items():
        first, last = getattr(part, axis)
        if not 0 <= first <= last <= limit:
            raise ValueError(f"{axis} [{first}, {last}) of a shard are not within the model's {limit}")
    _check_experts(config, part)
    num_groups = _length(part.kv_heads)
    return replace(
        config,
        num_heads=num_groups * (config.num_heads // config.num_head_groups),
        num_kv_heads=num_groups if config.latent is None else min(num_groups, config.num_kv_heads),
        full_heads=None if config.full_heads is None else _shard_heads(config.full_heads, config, part),
        intermediate_size=_length(same_share(part.columns, config.share_columns, config.intermediate_size)),
        layer_columns=tuple(
            _length(same_share(part.columns, config.share_columns, columns)) for columns in config.layer_columns
        ),
        layer_inputs=None if config.layer_inputs is None else _shard_inputs(config, part),
        experts=None if config.experts is None else _shard_experts(config.experts, part),
        recurrence=_shard_recurrence(config, part),
        vocab_size=part.vocabulary[1] - part.vocabulary[0],
    )


def _shard_heads(heads: HeadShape, config: DecoderConfig, part: ShardPart) -> HeadShape:
    own = _at_share(part.kv_heads, config.num_kv_heads, heads.num_kv_heads)
    return replace(heads, num_kv_heads=_length(own))


def _shard_inputs(config: DecoderConfig, part: ShardPart) -> LayerInputs:
    assert config.layer_inputs is not None
    return replace(config.layer_inputs, vocab_size=_length(_table_rows(config, part)))


def _shard_experts(experts: ExpertsConfig, part: ShardPart) -> ExpertsConfig:
    shared = same_share(part.columns, experts.columns, experts.shared_columns)
    columns = experts.columns if part.experts else _length(part.columns)
    return replace(experts, columns=columns, shared_columns=_length(shared), held=part.experts)


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
    return config.recurrence.with_pieces(_length(_pieces(config.recurrence, config, part)))


def _length(given: Range) -> int:
    return given[1] - given[0]


def _times(given: Range, factor: int) -> Range:
    return given[0] * factor, given[1] * factor


def _within(own: Range | None, given: Range | None) -> Range | None:
    """A range counted within the shard's own, in the whole's numbering."""
    if own is None or given is None:
        return given if own is None else own
    if not 0 <= given[0] <= given[1] <= own[1] - own[0]:
        raise ValueError(f"[{given[0]}, {given[1]}) is not within the shard's {own[1] - own[0]}")
    return own[0] + given[0], own[0] + given[1]
