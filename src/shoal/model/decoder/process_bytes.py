"""Memory of a worker's process besides weights and KV cache.

Bytes are right to a few percent: tests/model/decoder/test_memory.py compares them with what processes take.
"""

from __future__ import annotations

from shoal.model.decoder_config import DecoderConfig
from shoal.model.layer_config.attention import LatentConfig
from shoal.model.layer_config.experts import ExpertsConfig

_FP32_BYTES = 4
PROCESS_BYTES = 20 << 20
"""Anonymous memory of a worker before it has loaded anything: Python and its imports. Source: measured in
tests/model/decoder/test_memory.py."""
FORK_BYTES = 4 << 20
"""The part of these bytes that a worker has for itself if it is forked from a process that has imported everything.
Source: measured in tests/launch/language/test_memory.py."""
CODES_BYTES = 3
"""Most bytes for each value of a row that is multiplied by a matrix: its code (two bytes if activations are exact), and
its share of the scale and sums of its block of 32. Source: native/gemm/row_codes.h."""


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


def process_bytes(config: DecoderConfig, *, max_step_tokens: int, adapter_ranks: int = 0) -> int:
    """Bytes of a worker that is not a fork, besides weights and KV cache: Python, learned positions, and working memory
    of steps.

    Args:
        config: of the whole model; a shard needs no more than this.
        max_step_tokens: rows of the largest step.
        adapter_ranks: largest sum of the ranks of an adapter's matrices that read the same rows; 0: there are no
            adapters.
    """
    by_layer = [config.layer_heads(layer) for layer in range(config.num_layers)]
    qkv = max((config.num_heads + 2 * heads.num_kv_heads) * heads.head_dim for heads in by_layer)
    results = max((config.result_columns, *(config.num_heads * heads.head_dim for heads in by_layer)))
    if config.recurrence is not None:
        qkv, results = max(qkv, config.recurrence.in_width), max(results, config.recurrence.out_width)
    floats = 3 * config.hidden_size + qkv + results
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
    if adapter_ranks:  # then gate and up are computed separately
        floats += adapter_ranks + config.intermediate_size
    if config.carried_width > config.hidden_size:
        more_floats, more_codes = _carried_items(config)
        floats, codes = floats + more_floats, codes + more_codes
    positions = config.max_context * config.hidden_size * _FP32_BYTES if config.learned_positions else 0
    return PROCESS_BYTES + positions + max_step_tokens * (floats * _FP32_BYTES + codes * CODES_BYTES)


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
