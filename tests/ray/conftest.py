"""A Ray cluster over three hosts, which the tests of this folder share: raylets take seconds to start."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.executor.graphs import skip_chain
from tests.model.tiny_models import make_tiny_gguf
from tests.ray.hosts import RayHosts, ray_hosts, why_not
from tests.ray.serving import WIDTH


@pytest.fixture(scope="session")
def cluster() -> Iterator[RayHosts]:
    if reason := why_not():
        pytest.skip(reason)
    with ray_hosts(3) as made:
        yield made


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_gguf(tmp_path_factory.mktemp("model"), quant="F32")


@pytest.fixture(scope="session")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return skip_chain(tmp_path_factory.mktemp("chain") / "chain.onnx", width=WIDTH)
