"""Models that several files compare against."""

from collections.abc import Callable
from pathlib import Path

import pytest

from shoal.model.formats.open_weights import open_weights
from shoal.model.weights import WeightSource
from tests.model.tiny_models import make_tiny_model

MakeSource = Callable[[str], WeightSource]


@pytest.fixture(scope="session")
def tiny_source(tmp_path_factory: pytest.TempPathFactory) -> MakeSource:
    """Weights of a tiny random model of a family, written once."""
    directories: dict[str, Path] = {}

    def make(family: str) -> WeightSource:
        if family not in directories:
            directories[family] = make_tiny_model(family, tmp_path_factory.mktemp("models") / family)
        return open_weights(directories[family])

    return make
