"""What several files about graphs take apart."""

import warnings
from collections.abc import Sequence

import pytest
from onnx.backend.test.case.test_case import TestCase
from onnx.backend.test.loader import load_model_tests


@pytest.fixture(scope="session")
def node_cases() -> Sequence[TestCase]:
    """Every case of one operator that the ONNX standard has, with inputs and outputs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the cases are computed when they are loaded, overflows and all
        return load_model_tests(kind="node")
