"""Real worker processes with a tiny model, and the proof that nothing of them stays."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from shoal.launch.launch import LoadedModel
from tests.integration.leaks import no_leaks
from tests.integration.running import launch_tiny
from tests.model.tiny_models import make_tiny_gguf


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_gguf(tmp_path_factory.mktemp("model"), quant="F32")


@pytest.fixture(scope="session")
def unsplit(tiny_model: Path) -> Iterator[LoadedModel]:
    """The whole model in this process. Made before any leak is looked for: ONNX Runtime keeps what it opens."""
    with launch_tiny(tiny_model, split="1") as loaded:
        yield loaded


@pytest.fixture(autouse=True)
def _nothing_stays(unsplit: LoadedModel) -> Iterator[None]:
    with no_leaks():
        yield
