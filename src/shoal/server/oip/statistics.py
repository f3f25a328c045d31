"""Triton's statistics of a model, as plain data. Times are sums in nanoseconds."""

from __future__ import annotations

from typing import Any

from shoal.inference.served_model import ServedModel

_NS = 1_000_000_000
_MS = 1_000


def model_statistics(model: ServedModel) -> dict[str, Any]:
    """One element of `model_stats`. Source: Triton, "Statistics Extension".

    Copying of inputs and outputs is not measured separately, and there is no cache: their times are 0.
    """
    stats, counts = model.stats(), model.counts
    num_failed = sum(counts.num_failed.values())
    return {
        "name": model.file.name,
        "version": model.file.version,
        "last_inference": round(counts.last_success_unix_s * _MS),
        "inference_count": stats.num_rows,
        "execution_count": stats.num_batches,
        "inference_stats": {
            "success": _duration(counts.num_succeeded, counts.success_s),
            "fail": _duration(num_failed, counts.failure_s),
            "queue": _duration(stats.num_succeeded, stats.queue_s),
            "compute_input": _duration(stats.num_succeeded, 0.0),
            "compute_infer": _duration(stats.num_succeeded, stats.compute_s),
            "compute_output": _duration(stats.num_succeeded, 0.0),
            "cache_hit": _duration(0, 0.0),
            "cache_miss": _duration(0, 0.0),
        },
        "batch_stats": [
            {
                "batch_size": rows,
                "compute_input": _duration(count, 0.0),
                "compute_infer": _duration(count, 0.0),
                "compute_output": _duration(count, 0.0),
            }
            for rows, count in sorted(stats.batch_sizes.items())
        ],
    }


def _duration(count: int, seconds: float) -> dict[str, int]:
    return {"count": count, "ns": round(seconds * _NS)}
