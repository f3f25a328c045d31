"""A Ray cluster over three hosts, which the tests of this folder share: raylets take seconds to start."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.model.tiny_models import make_tiny_gguf
from tests.ray.hosts import RayHosts, ray_hosts, why_not


@pytest.fixture(scope="session")
def cluster() -> Iterator[RayHosts]:
    if reason := why_not():
        pytest.skip(reason)
    with ray_hosts(3) as made:
        yield made


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_gguf(tmp_path_factory.mktemp("model"), quant="F32")
