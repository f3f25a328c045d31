"""What holds for every test."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.real_models import export_minilm


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What tests measure does not go into the user's cache, and nothing comes from it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def minilm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sentence encoder as an ONNX file, exported once a run."""
    return export_minilm(tmp_path_factory.mktemp("minilm"))
