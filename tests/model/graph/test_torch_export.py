"""Modules of torch as ONNX files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from shoal.errors import ConfigError, ModelLoadError
from shoal.model.graph.file.graph_file import open_graph
from shoal.model.graph.torch_export import export_module
from tests.plain_runtime import plain_session


def scaled() -> torch.nn.Module:
    """Two inputs, one without a batch, and a layer that is another one in training."""

    class Scaled(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = torch.nn.Linear(4, 2)
            self.dropout = torch.nn.Dropout(0.5)

        def forward(self, x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
            return self.dropout(self.linear(x)) * scale

    return Scaled()


def branching() -> torch.nn.Module:
    """Python code that looks at values, which no exporter can follow."""

    class Branching(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if x.sum().item() > 0 else -x

    return Branching()


def test_the_first_dimension_becomes_the_batch(tmp_path: Path) -> None:
    module = scaled().train()
    path = export_module(module, {"x": torch.zeros(2, 4), "scale": torch.tensor(1.0)}, tmp_path)
    assert module.training
    graph = open_graph(path)
    shapes = {spec.name: spec.shape for spec in graph.inputs}
    assert shapes["scale"] == ()
    assert shapes["x"] is not None
    assert not isinstance(shapes["x"][0], int)
    assert shapes["x"][1] == 4
    x, scale = np.random.default_rng(0).standard_normal((5, 4), np.float32), np.float32(3)
    session = plain_session(path)
    (found,) = session.run(None, {"x": x, "scale": np.asarray(scale)})
    expected = module.eval()(torch.from_numpy(x), torch.tensor(scale)).detach().numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_one_tensor_need_not_be_a_tuple(tmp_path: Path) -> None:
    (spec,) = open_graph(export_module(torch.nn.Linear(4, 2), torch.zeros(3, 4), tmp_path)).inputs
    assert spec.shape is not None
    assert not isinstance(spec.shape[0], int)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (lambda: ("model.pt", torch.zeros(1)), "not str"),
        (lambda: (torch.nn.ReLU(), None), "example_inputs"),
        (lambda: (torch.nn.ReLU(), ([1.0],)), "must be tensors, not list"),
    ],
)
def test_what_cannot_be_exported_is_a_config_error(
    tmp_path: Path, given: Callable[[], tuple[object, object]], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        export_module(*given(), tmp_path)


def test_what_torch_cannot_export_is_one_line(tmp_path: Path) -> None:
    module = branching().train()
    with pytest.raises(ModelLoadError, match=r"^torch cannot export this module: \S") as caught:
        export_module(module, torch.zeros(2, 3), tmp_path)
    assert "\n" not in str(caught.value)
    assert module.training
