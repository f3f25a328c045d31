"""What holds for every test."""

import gc
import os
from collections.abc import Generator, Iterator
from ctypes.util import find_library
from functools import cache
from pathlib import Path

import httpx
import pytest
from httpx._config import DEFAULT_TIMEOUT_CONFIG

from tests.device_environments import SWIFTSHADER, device_python
from tests.lazy_imports import import_lazily
from tests.log_lines import replica_lines
from tests.real_models import kept_minilm
from tests.sampling import choose_examples, sample_items


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--whole", action="store_true", help="run sweeps whole, not as samples")


def pytest_configure(config: pytest.Config) -> None:
    """One thread for NumPy and torch, before they are imported: tests compute so little that threads would spend four
    times as long waiting for each other, in loops, on cores that other tests need."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    import_lazily(("anthropic", "compressed_tensors", "ollama", "openai", "torch", "transformers"))
    choose_examples(anew=config.getoption("whole"))


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """What is imported and collected stays until the end of the run: Python looks for no cycles in it, now or later."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("whole"):
        config.hook.pytest_deselected(items=sample_items(items))


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What tests measure does not go into the user's cache, and nothing comes from it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session", autouse=True)
def _patient_clients() -> Iterator[None]:
    """Clients that name no timeout wait for longer than 5 s: a busy machine may need that for an answer."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("connect", "read", "write", "pool"):
            patch.setattr(DEFAULT_TIMEOUT_CONFIG, name, 60.0)
        yield


@pytest.fixture(scope="session", autouse=True)
def _shared_trust() -> Iterator[None]:
    """Clients share their list of authorities: each of hundreds would take 25 ms to read it anew."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("httpx._transports.default.create_ssl_context", cache(httpx.create_ssl_context))
        yield


@pytest.fixture(scope="session")
def minilm() -> Path:
    """The sentence encoder as an ONNX file, exported by whichever process asks first."""
    return kept_minilm()


@pytest.fixture
def told() -> Iterator[list[str]]:
    """What the test logs about losses and recoveries of replicas."""
    with replica_lines() as lines:
        yield lines


@pytest.fixture(scope="session")
def openvino_python() -> str:
    """A Python whose ONNX Runtime has the plugin of OpenVINO, which computes on processors as well."""
    try:
        return str(device_python("openvino"))
    except LookupError as error:
        pytest.skip(str(error))


@pytest.fixture
def webgpu_python(monkeypatch: pytest.MonkeyPatch) -> str:
    """A Python whose ONNX Runtime has WebGPU, which computes on Vulkan in software."""
    if not SWIFTSHADER.exists():
        pytest.skip(f"there is no {SWIFTSHADER}: Debian's package chromium brings it")
    if find_library("vulkan") is None:
        pytest.skip("there is no Vulkan loader: Debian's package libvulkan1 brings it")
    monkeypatch.setenv("VK_ICD_FILENAMES", str(SWIFTSHADER))
    try:
        return str(device_python("webgpu"))
    except LookupError as error:
        pytest.skip(str(error))
