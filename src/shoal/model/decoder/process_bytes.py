"""Memory of a worker's process besides weights and KV cache, as a sum of named parts.

Bytes are right to a few percent: tests/launch/language/test_memory.py compares them with what processes take.
"""

from __future__ import annotations

from dataclasses import dataclass

from shoal.model.decoder.stage_layers import HEAD_ROWS
from shoal.model.decoder_config import DecoderConfig
from shoal.model.layer_config.attention import LatentConfig
from shoal.model.layer_config.experts import ExpertsConfig

_FP32_BYTES = 4
PROCESS_BYTES = 20 << 20
"""Anonymous memory of a worker before it has loaded anything: Python and its imports. Source: measured in
tests/model/decoder/test_memory.py."""
FORK_BYTES = 13 << 19
"""The part of these bytes that a worker has for itself if it is forked from a process that has imported everything.
Source: measured in tests/launch/language/test_memory.py."""
_CODE_BLOCK, _CODE_BLOCK_BYTES, _LOW_CODES_BYTES = 32, 60, 32
"""Values of a block of a row that is multiplied by a matrix, bytes of its codes, scale and sums, and of its low codes,
which exact activations have. Source: native/gemm/row_codes.h."""
_RING_STEPS, _RING_REST_BYTES = 3, 1 << 16
"""Steps whose hidden states fit into a ring, and room for what describes them. A judgment."""


def room_of_each(free_bytes: int, num_workers: int, *, are_forks: bool) -> int:
    """Bytes that each worker of a machine has for what it loads.

    Args:
        free_bytes: of the machine.
        num_workers: that share them, >= 1.
        are_forks: whether they are forked from one process.
    """
    if are_forks:
        return max(0, (free_bytes - PROCESS_BYTES) // num_workers - FORK_BYTES)
    return max(0, free_bytes // num_workers - PROCESS_BYTES)


@dataclass(frozen=True, slots=True, kw_only=True)
class StageWork:
    """What a worker computes: a stage, or a shard of it, and the largest step."""

    first_layer: int
    last_layer: int
    """The first layer after the stage."""
    num_rows: int
    """Rows of the largest step."""
    num_outputs: int
    """Rows of the largest step from which tokens are drawn."""
    num_positions: int
    """Positions of the longest sequence that the KV cache can hold."""
    num_shards: int = 1
    """Workers that compute the stage together."""
    exact_activations: bool = False
    """See `StageConfig`."""
    adapter_ranks: int = 0
    """The largest sum of the ranks of an adapter's matrices that read the same rows; 0: there are no adapters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessParts:
    """Bytes of a worker that is not a fork, besides weights and KV cache."""

    python_bytes: int
    """Python and its imports."""
    table_bytes: int
    """Cosine and sine of positions' angles, and learned positions."""
    row_bytes: int
    """Rows of hidden states, and what they become within a layer."""
    logit_bytes: int
    """Logits of the rows from which tokens are drawn."""
    link_bytes: int
    """Hidden states on their way from the stage before."""

    @property
    def total(self) -> int:
        """The sum of all parts."""
        return self.python_bytes + self.table_bytes + self.row_bytes + self.logit_bytes + self.link_bytes


def process_parts(config: DecoderConfig, work: StageWork) -> ProcessParts:
    """The parts of a worker's process. `config`: of the model, or of the worker's shard of it."""
    is_first, is_last = work.first_layer == 0, work.last_layer == config.num_layers
    logits = min(HEAD_ROWS, work.num_outputs) * config.vocab_size if is_last else 0
    row_bytes = config.carried_width * _FP32_BYTES
    return ProcessParts(
        python_bytes=PROCESS_BYTES,
        table_bytes=_table_bytes(config, work),
        row_bytes=work.num_rows * _row_bytes(config, work),
        logit_bytes=logits * _FP32_BYTES,
        link_bytes=0 if is_first else ring_bytes(work.num_rows, config.carried_width) + work.num_rows * row_bytes,
    )


def ring_bytes(num_rows: int, width: int) -> int:
    """Bytes of a link between two stages on one machine: room for the hidden states of some steps, so that a sender
    never waits for a computing receiver.

    Args:
        num_rows: of a step.
        width: fp32 values of a row.
    """
    return _RING_STEPS * num_rows * width * _FP32_BYTES + _RING_REST_BYTES


def code_bytes(num_values: int, *, exact_activations: bool) -> int:
    """Bytes of the codes of values that are multiplied by matrices of quantized weights."""
    block_bytes = _CODE_BLOCK_BYTES + (_LOW_CODES_BYTES if exact_activations else 0)
    return -(-num_values // _CODE_BLOCK) * block_bytes


def _table_bytes(config: DecoderConfig, work: StageWork) -> int:
    own = filter(config.has_attention, range(work.first_layer, work.last_layer)) if config.num_heads else ()
    ropes = {id(rope): rope.rotary_dim for rope in map(config.layer_rope, own)}
    positions = config.hidden_size if config.learned_positions and work.first_layer == 0 else 0
    return work.num_positions * (sum(ropes.values()) + positions) * _FP32_BYTES


def _row_bytes(config: DecoderConfig, work: StageWork) -> int:
    """Bytes of one row of a step."""
    by_layer = [config.layer_heads(layer) for layer in range(config.num_layers)]
    qkv = max((config.num_heads + 2 * heads.num_kv_heads) * heads.head_dim for heads in by_layer)
    results = max((config.result_columns, *(config.num_heads * heads.head_dim for heads in by_layer)))
    if config.recurrence is not None:
        qkv, results = max(qkv, config.recurrence.in_width), max(results, config.recurrence.out_width)
    floats = (3 if _has_delta(config, work) else 2) * config.hidden_size + qkv + results
    codes = max(config.hidden_size, results)
    if config.latent is not None:
        more_floats, more_codes = _latent_items(config.num_heads, config.latent)
        floats, codes = floats + more_floats, codes + more_codes
    if config.experts is None or config.experts.dense_layers:
        columns = max((config.intermediate_size, *config.layer_columns))
        floats, codes = floats + columns, codes + columns
    if config.experts is not None:
        more_floats, more_codes = _expert_items(config.hidden_size, config.experts)
        floats, codes = floats + more_floats, codes + more_codes
    if work.adapter_ranks:  # then gate and up are computed separately
        floats += work.adapter_ranks + config.intermediate_size
    if config.carried_width > config.hidden_size:
        more_floats, more_codes = _carried_items(config)
        floats, codes = floats + more_floats, codes + more_codes
    return floats * _FP32_BYTES + code_bytes(codes, exact_activations=work.exact_activations)


def _has_delta(config: DecoderConfig, work: StageWork) -> bool:
    """Whether what a half of a layer adds is complete before it is added. Source: Stage::adds_plainly in
    native/stage/stage.h."""
    is_changed = config.post_norms or config.residual_scale != 1.0 or config.is_parallel
    return work.num_shards > 1 or is_changed or config.experts is not None


def _carried_items(config: DecoderConfig) -> tuple[int, int]:
    """Numbers and codes of a row that carries more than a hidden state. Source: native/stage/carried."""
    floats, codes = 3 * config.carried_width, 0
    if config.altup is not None:
        floats += 2 * config.hidden_size + config.altup.rank
        codes += max(config.hidden_size, config.altup.rank)
    if config.layer_inputs is not None:
        floats += config.hidden_size + config.layer_inputs.width
        codes += max(config.hidden_size, config.layer_inputs.width)
    return floats, codes


def _latent_items(num_heads: int, latent: LatentConfig) -> tuple[int, int]:
    """Numbers and codes of a row in latent attention. Source: native/stage/runners/latent.cpp."""
    inputs = num_heads * max(latent.plain_dim, latent.latent_dim)
    carried = num_heads * max(latent.latent_dim, latent.value_dim)
    heads = num_heads * (latent.query_dim + latent.key_dim)
    return inputs + carried + heads + latent.query_rank + latent.key_dim, inputs + latent.query_rank


def _expert_items(hidden_size: int, experts: ExpertsConfig) -> tuple[int, int]:
    """Numbers and codes of a row in its experts. Source: native/stage/runners/experts.cpp."""
    columns = experts.num_chosen * experts.columns + experts.shared_columns
    sums, scores = experts.num_chosen * hidden_size, 2 * experts.num_experts
    return columns + sums + scores, columns + experts.num_chosen * hidden_size
