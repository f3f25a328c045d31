"""Types of tensors that the protocol has no name for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from shoal.errors import ModelLoadError
from shoal.protocol.stage_interface import TensorSpec
from shoal.server.oip.datatypes import loads_named
from tests.server.oip.fakes import echo


def test_a_type_that_the_protocol_cannot_name_is_refused() -> None:
    graph = echo("int8")
    assert loads_named(lambda path: graph)(Path("plain.onnx")) is graph
    assert graph.num_closed == 0
    graph.plan = replace(graph.plan, outputs=(TensorSpec(name="odd", dtype="complex64", shape=None),))
    with pytest.raises(ModelLoadError, match="'odd' has elements of type complex64"):
        loads_named(lambda path: graph)(Path("odd.onnx"))
    assert graph.num_closed == 1
