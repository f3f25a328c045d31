"""Providers that ONNX Runtime was built with and cannot load: it leaves them out without an error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnxruntime as ort
import pytest

from shoal.errors import ConfigError
from shoal.model import runtime_sessions
from shoal.model.decoder.device.attention_graph import gather_graph
from shoal.model.device import plugins
from shoal.model.device.libraries import left_out
from shoal.model.runtime_sessions import session_options, share_pool, start_session
from shoal.protocol.device_config import DeviceConfig

OPENVINO = DeviceConfig(provider="openvino")


@pytest.fixture
def capi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where ONNX Runtime's libraries lie, empty."""
    monkeypatch.setattr(ort, "__file__", str(tmp_path / "__init__.py"))
    (tmp_path / "capi").mkdir()
    return tmp_path / "capi"


def test_a_session_without_its_provider_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime goes on with the processor alone where the list of providers allows it."""
    monkeypatch.setattr(runtime_sessions, "choose_device", lambda options, device: [])
    with pytest.raises(ConfigError, match="openvino:0: ONNX Runtime skipped OpenVINOExecutionProvider"):
        start_session(gather_graph(2), session_options(1), OPENVINO)


def test_the_linker_says_why(capi: Path) -> None:
    (capi / "libonnxruntime_providers_openvino.so").write_bytes(b"no library")
    said = r"OpenVINOExecutionProvider cannot be loaded \(.*(file too short|invalid ELF header)\): pip install"
    with pytest.raises(ConfigError, match=said):
        raise left_out(OPENVINO)


def test_old_releases_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(ort, "set_global_thread_pool_sizes")
    with pytest.raises(ConfigError, match="is too old; pip install --upgrade onnxruntime"):
        share_pool(1)
    monkeypatch.delattr(ort, "register_execution_provider_library")
    monkeypatch.setattr(plugins, "find_spec", lambda module: Any)
    with pytest.raises(ConfigError, match="too old for onnxruntime-ep-openvino"):
        plugins.register_plugin.__wrapped__("openvino")
