"""ONNX Runtime sessions and their threads.

A session has a thread pool of its own, or all sessions of a process share one. ONNX Runtime has no mixture: once a
process shares a pool, every later session must use it.

Sessions that share a pool run one after the other, so they share the memory of their steps as well. With an arena each,
every session would keep the memory of its largest step: 780 MB for SmolLM2 after a prompt of 512 tokens, instead of 52.
"""

from __future__ import annotations

from pathlib import Path

import onnxruntime as ort

from shoal.core.plan.devices.providers import PROVIDERS
from shoal.errors import ConfigError
from shoal.model.device.libraries import bring_libraries, left_out
from shoal.model.device.opening import choose_device
from shoal.protocol.device_config import DeviceConfig

_FATAL_ONLY = 4
"""Log severity. What users must know is raised as an error, not printed to stderr."""

_EXTEND_AS_REQUESTED = 1
"""Arena strategy: grow by what is requested, while the default doubles. Source: `OrtArenaCfg` in ONNX Runtime's C
API."""

_NO_FALLBACK = "session.disable_cpu_ep_fallback"
"""Session option that makes a node which the device does not compute an error. Source: ONNX Runtime,
onnxruntime_session_options_config_keys.h."""

_shared_pool_threads: int | None = None
"""Size of ONNX Runtime's global pool, which is created once for each process: a mirror of its state."""


def share_pool(threads: int) -> None:
    """Set the size of the process's shared pool, the calling thread included.

    Raises:
        ConfigError: the pool already has another size, or this release of ONNX Runtime (before 1.24) has none.
    """
    global _shared_pool_threads
    if not hasattr(ort, "set_global_thread_pool_sizes"):
        raise ConfigError(f"ONNX Runtime {ort.__version__} here is too old; pip install --upgrade onnxruntime")
    if _shared_pool_threads is None:
        ort.set_global_thread_pool_sizes(threads, 1)
        ort.create_and_register_allocator(
            ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT),
            ort.OrtArenaCfg(0, _EXTEND_AS_REQUESTED, -1, -1),
        )
        _shared_pool_threads = threads
    elif _shared_pool_threads != threads:
        raise ConfigError(f"this process already computes with {_shared_pool_threads} threads, not {threads}")


def session_options(threads: int | None = None) -> ort.SessionOptions:
    """Options of a session with `threads` of its own; with the shared pool if `threads` is None or the process has
    one."""
    options = ort.SessionOptions()
    options.log_severity_level = _FATAL_ONLY
    if threads is None or _shared_pool_threads is not None:
        options.use_per_session_threads = False
        options.add_session_config_entry("session.use_env_allocators", "1")
        options.add_session_config_entry("session.use_device_allocator_for_initializers", "1")
    else:
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
    return options


def start_session(
    model: str | Path | bytes,
    options: ort.SessionOptions,
    device: DeviceConfig | None = None,
    *,
    needs_device: bool = False,
) -> ort.InferenceSession:
    """Start a session on the processor or on a device. Passes on ONNX Runtime's exceptions, and prints nothing.

    Args:
        model: a file or its content.
        options: of the session.
        device: where to compute; None: on the processor.
        needs_device: whether a node that the device cannot compute is an error.

    Raises:
        ConfigError: the device's provider is not installed, cannot be loaded, or has no such device.
    """
    if device is not None:
        bring_libraries(device.provider)
    chosen = () if device is None else choose_device(options, device)
    processor = () if needs_device else ("CPUExecutionProvider",)
    if needs_device:
        options.add_session_config_entry(_NO_FALLBACK, "1")
    providers = None if chosen is None else [*chosen, *processor]
    session = ort.InferenceSession(model, options, providers=providers, enable_fallback=0)
    if device is not None and PROVIDERS[device.provider].runtime_name not in session.get_providers():
        raise left_out(device)
    if isinstance(model, bytes):
        session._model_bytes = None  # kept for a change of providers, as a second copy of all weights
    return session
