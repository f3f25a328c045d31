"""ONNX Runtime sessions and their threads.

A session has a thread pool of its own, or all sessions of a process share one. ONNX Runtime knows both, but not side by
side: once a process shares a pool, every later session must use it.
"""

from __future__ import annotations

from pathlib import Path

import onnxruntime as ort

from shoal.errors import ConfigError

_FATAL_ONLY = 4
"""Log severity: what a user must know comes as an error, not as a line on stderr."""

_shared_pool_threads: int | None = None
"""ONNX Runtime's global pool is one a process and is made once: this mirrors its state, it does not add any."""


def share_pool(threads: int) -> None:
    """Size the process's shared pool; the calling thread counts. Raises ConfigError if it has another size."""
    global _shared_pool_threads
    if _shared_pool_threads is None:
        ort.set_global_thread_pool_sizes(threads, 1)
        _shared_pool_threads = threads
    elif _shared_pool_threads != threads:
        raise ConfigError(f"this process already computes with {_shared_pool_threads} threads, not {threads}")


def session_options(threads: int | None = None) -> ort.SessionOptions:
    """Options of a session with `threads` of its own; None, or in a process that shares a pool: with that one."""
    options = ort.SessionOptions()
    options.log_severity_level = _FATAL_ONLY
    if threads is None or _shared_pool_threads is not None:
        options.use_per_session_threads = False
    else:
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
    return options


def start_session(model: str | Path | bytes, options: ort.SessionOptions) -> ort.InferenceSession:
    """A session on the CPU. Raises what ONNX Runtime raises, and prints nothing."""
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"], enable_fallback=0)
