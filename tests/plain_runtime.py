"""Plain ONNX Runtime, the reference that split graphs are held against."""

from __future__ import annotations

from pathlib import Path

import onnxruntime as ort

from shoal.model.runtime_sessions import session_options, start_session


def plain_session(model: Path | str | bytes, options: ort.SessionOptions | None = None) -> ort.InferenceSession:
    """A session with one thread, or that of the process's shared pool where another test has made one."""
    return start_session(model, options or session_options(1))
