"""One shard's part of a model's weights, as if it were a smaller model.

Attention is cut by KV heads with the query heads that read them (latent attention by query heads, where each shard has
all latent rows); the MLP by columns, unless whole experts are distributed; embedding and head by vocabulary rows. So
matrices that read the hidden state are cut by rows, and those that add to it by columns, and each shard's `o` and
`down` products are partial sums.
Source: Megatron-LM, arXiv 1909.08053, section 3.
"""

from __future__ import annotations

import numpy as np

from shoal.arrays import F32
from shoal.model.decoder_config import DecoderConfig
from shoal.model.shard.config import shard_config
from shoal.model.shard.ranges import at_share, recurrent_pieces, same_share, table_rows, times, within
from shoal.model.weights import KeptRows, Packing, Precision, Range, Weight, WeightSource
from shoal.protocol.stage_config import ShardPart


class ShardSource:
    """A shard's own rows and columns of another source, read when asked for. Implements `WeightSource`.

    Norms are whole on every shard. Raises ValueError for a part that the model does not have.
    """

    def __init__(self, source: WeightSource, part: ShardPart) -> None:
        self._source = source
        self._part = part
        self._config = shard_config(source.config, part)

    @property
    def config(self) -> DecoderConfig:
        """The shard's own settings: its numbers of heads, columns and vocabulary rows. It may have no heads."""
        return self._config

    @property
    def whole_config(self) -> DecoderConfig:
        """The settings of the whole model."""
        return self._source.config

    @property
    def part(self) -> ShardPart:
        return self._part

    def matrix(
        self, name: str, precision: Precision, *, rows: Range | None = None, columns: Range | None = None
    ) -> Weight:
        """The shard's part of a matrix, or the rows and columns of it that are given by their numbers within the part.
        See `WeightSource`."""
        own_rows, own_columns = self._own_range(name, rows, columns)
        return self._source.matrix(self._own_name(name), precision, rows=own_rows, columns=own_columns)

    def matrix_bytes(
        self, name: str, precision: Precision, *, rows: Range | None = None, columns: Range | None = None
    ) -> int:
        """The value that `matrix(...).num_bytes` would have, from the header alone."""
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

        The bias of an expert's `down` must be added once in a sum over shards. If experts are cut by columns, the shard
        with the first columns has it, and the others have zeros.
        """
        values = self._source.vector(name, span=within(self._rows(name.removesuffix("_bias")), span))
        is_cut = ".experts." in name and not self._part.experts
        is_another_s = is_cut and name.endswith(".down_bias") and self._part.columns[0] > 0
        return np.zeros_like(values) if is_another_s else values

    def ranges_of(self, name: str) -> tuple[Range | None, Range | None]:
        """The part's rows and columns in the whole matrix; None: all."""
        return self._rows(name), self._columns(name)

    def _own_range(self, name: str, rows: Range | None, columns: Range | None) -> tuple[Range | None, Range | None]:
        return within(self._rows(name), rows), within(self._columns(name), columns)

    def _own_name(self, name: str) -> str:
        """The name in the whole model: matrices of single heads are numbered from the shard's first one."""
        before, heads, rest = name.rpartition(".heads.")
        if not heads:
            return name
        head, _, leaf = rest.partition(".")
        return f"{before}{heads}{self._part.kv_heads[0] + int(head)}.{leaf}"

    def _rows(self, name: str) -> Range | None:
        """The part's rows in the whole matrix; None: all."""
        recurrence, leaf = self._source.config.recurrence, name.rpartition(".")[2]
        if recurrence is not None and (factor := recurrence.rows_of_piece(leaf)):
            return times(recurrent_pieces(recurrence, self._source.config, self._part), factor)
        own = self._config.recurrence
        if own is not None and leaf.removesuffix("_taps") in own.inputs and not own.num_pieces:
            return (0, 0)
        match name.rpartition(".")[2]:
            case "embedding" | "head":
                return self._part.vocabulary
            case "layer_embedding":
                return table_rows(self._source.config, self._part)
            case "gate" | "up" | "shared_gate" | "shared_up":
                return self._mlp_columns(name)
            case "sinks":
                return times(self._part.kv_heads, self._source.config.num_heads // self._source.config.num_kv_heads)
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
            return times(recurrent_pieces(recurrence, self._source.config, self._part), factor)
        match name.rpartition(".")[2]:
            case "o":
                return self._query_columns(name, results=True)
            case "down" | "shared_down":
                return self._mlp_columns(name)
            case _:
                return None

    def _query_columns(self, name: str, *, results: bool = False) -> Range:
        """The part's columns of the queries or of the results, in the layer that a matrix belongs to."""
        whole, heads = self._source.config, self._source.config.layer_heads(_layer_of(name))
        if heads == whole.full_heads:
            own = _heads_of_layer(self._part, whole, name)
            return times(own, whole.num_heads * heads.head_dim // heads.num_kv_heads)
        return times(
            self._part.kv_heads, (whole.result_columns if results else whole.query_columns) // self._num_groups
        )

    def _key_columns(self, name: str) -> Range:
        heads = self._source.config.layer_heads(_layer_of(name))
        return times(_heads_of_layer(self._part, self._source.config, name), heads.head_dim)

    def _mlp_columns(self, name: str) -> Range | None:
        """The part's columns of the MLP that a matrix belongs to; None: all columns of an expert that is held whole."""
        config = self._source.config
        experts = config.experts
        if ".experts." in name:
            return None if self._part.experts else self._part.columns
        is_shared = name.rpartition(".")[2].startswith("shared_")
        total = experts.shared_columns if experts is not None and is_shared else config.columns(_layer_of(name))
        return same_share(self._part.columns, config.share_columns, total)

    @property
    def _num_groups(self) -> int:
        """Number of groups of query heads in the whole model that are never divided."""
        return self._source.config.num_head_groups


def _layer_of(name: str) -> int:
    """The number in the name of a layer's matrix."""
    return int(name.split(".")[1])


def _heads_of_layer(part: ShardPart, whole: DecoderConfig, name: str) -> Range:
    """The part's KV heads in the layer that a matrix belongs to."""
    count = whole.layer_heads(_layer_of(name)).num_kv_heads
    return at_share(part.kv_heads, whole.num_kv_heads, count)
