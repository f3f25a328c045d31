"""`shoal.load`: a model as a callable, and as a stream."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import shoal
from shoal.errors import ConfigError, InvalidRequest
from tests.executor.graphs import skip_chain, strict_reshape
from tests.plain_runtime import plain_session


@pytest.fixture
def chain(tmp_path: Path) -> Path:
    return skip_chain(tmp_path / "chain.onnx")


def rows(count: int) -> np.ndarray:
    return np.random.default_rng(3).standard_normal((count, 8), np.float32)


@pytest.mark.parametrize("split", ["1", "pp=2", "dp=2"])
def test_inputs_by_position_by_name_and_as_a_mapping(chain: Path, split: str) -> None:
    x = rows(7)
    y, first = plain_session(chain).run(["y", "first"], {"x": x})
    with shoal.load(chain, split=split, threads=1) as model:
        for outputs in (model(x), model(x=x), model({"x": x}), model(x.astype(np.float64))):
            assert list(outputs) == ["y", "first"]
            np.testing.assert_allclose(outputs["y"], y, rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(outputs["first"], first, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("split", ["1", "pp=2", "dp=2"])
def test_a_stream_keeps_its_order_and_reads_only_what_it_has_room_for(chain: Path, split: str) -> None:
    batches = [rows(1 + index % 3) + index for index in range(30)]
    num_read = 0

    def source() -> Iterator[np.ndarray]:
        nonlocal num_read
        for batch in batches:
            num_read += 1
            yield batch

    session = plain_session(chain)
    with shoal.load(chain, split=split, threads=1) as model:
        for index, outputs in enumerate(model.stream(source())):
            np.testing.assert_array_equal(outputs["y"], session.run(["y"], {"x": batches[index]})[0])
            if split != "dp=2":  # where one replica may be far ahead of the other
                assert num_read <= index + 4


def test_a_stream_can_be_left_and_the_model_used_again(chain: Path) -> None:
    with shoal.load(chain, split="pp=2", threads=1) as model:
        next(model.stream(rows(1) for _ in range(10)))
        assert model(rows(2))["y"].shape == (2, 8)


def test_outputs_of_a_call_outlive_the_model(chain: Path) -> None:
    with shoal.load(chain, split="pp=2", threads=1) as model:
        kept = model(rows(5))["y"]
        model(rows(5) * 2)
    np.testing.assert_allclose(kept, plain_session(chain).run(["y"], {"x": rows(5)})[0], rtol=1e-5, atol=1e-6)


def test_what_cannot_be_computed_is_refused_and_the_model_goes_on(tmp_path: Path) -> None:
    with shoal.load(strict_reshape(tmp_path / "reshape.onnx"), split="pp=2", threads=1) as model:
        with pytest.raises(InvalidRequest, match="eshape"):
            model(np.ones((1, 3), np.float32))
        with pytest.raises(InvalidRequest, match="eshape"):
            list(model.stream([np.ones((1, 4), np.float32), np.ones((1, 3), np.float32)]))
        assert model(np.ones((1, 8), np.float32))["y"].shape == (2, 4)


def test_wrong_calls_are_told_what_is_wrong(chain: Path) -> None:
    with shoal.load(chain, threads=1) as model:
        with pytest.raises(InvalidRequest, match="takes 1"):
            model(rows(1), rows(1))
        with pytest.raises(InvalidRequest, match="given twice"):
            model(rows(1), x=rows(1))
        with pytest.raises(InvalidRequest, match="no input 'z'"):
            model(z=rows(1))
        with pytest.raises(InvalidRequest, match="missing"):
            model()
        assert model(rows(0))["y"].shape == (0, 8), "no rows are an answer of no rows"
    with pytest.raises(ConfigError, match="micro_batch"):
        shoal.load(chain, micro_batch=0)
    with pytest.raises(ConfigError, match=r"path of an ONNX file"):
        shoal.load(3)
