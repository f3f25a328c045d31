"""What is taken as an input, and what is said of what is not."""

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from shoal.core.plan.graph import BatchAxes
from shoal.errors import InvalidRequest
from shoal.model.graph.sample.input_check import check_inputs
from shoal.protocol.stage_interface import TensorSpec

IMAGE = TensorSpec(name="image", dtype="float32", shape=("N", 3, None))
IDS = TensorSpec(name="ids", dtype="int32", shape=("N",))
TEXT = TensorSpec(name="text", dtype="string", shape=("N",))
ROWS = BatchAxes(inputs={"image": 0}, outputs={"y": 0}, rows=None)


def check(spec: TensorSpec, array: Any, *, batch: BatchAxes | None = None, convert: bool = False) -> np.ndarray:
    return check_inputs([spec], {spec.name: array}, batch=batch, convert=convert)[spec.name]


def test_what_fits_is_not_copied() -> None:
    image = np.zeros((2, 3, 5), np.float32)
    assert check(IMAGE, image, batch=ROWS) is image


def test_order_is_the_graphs_and_memory_is_contiguous() -> None:
    given = {"ids": np.zeros(2, np.int32), "image": np.zeros((5, 3, 2), np.float32).T}
    found = check_inputs([IMAGE, IDS], given, convert=False)
    assert list(found) == ["image", "ids"]
    assert found["image"].flags.c_contiguous


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, r"'image' is missing: expected float32 of shape \[N, 3, any\]"),
        ({"imgae": np.zeros(1)}, "no input 'imgae'; did you mean 'image'"),
        ({"zzz": np.zeros(1)}, "it takes 'image'"),
        ({"image": np.zeros((1, 3), np.float32)}, r"has 2 dimensions \[1, 3\]: expected float32 of shape"),
        ({"image": np.zeros((1, 4, 5), np.float32)}, r"has shape \[1, 4, 5\]: expected"),
        ({"image": np.zeros((1, 3, 5))}, "is float64: expected float32"),
    ],
)
def test_one_line_says_what_was_expected(given: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(InvalidRequest, match=message) as caught:
        check_inputs([IMAGE], given, batch=ROWS, convert=False)
    assert caught.value.param == next(iter(given), "image")


def test_equal_symbols_are_equal_sizes() -> None:
    with pytest.raises(
        InvalidRequest, match="'image' and 'ids' must agree in 'N', but it is 2 in one and 3 in the other"
    ):
        check_inputs(
            [IMAGE, IDS], {"image": np.zeros((2, 3, 1), np.float32), "ids": np.zeros(3, np.int32)}, convert=False
        )


def test_a_fixed_batch_takes_any_number_of_rows() -> None:
    spec = TensorSpec(name="image", dtype="float32", shape=(1, 2))
    rows = np.zeros((5, 2), np.float32)
    fixed = BatchAxes(inputs={"image": 0}, outputs={"y": 0}, rows=1)
    assert check(spec, rows, batch=fixed) is rows
    with pytest.raises(InvalidRequest, match=r"\[5, 2\]"):
        check(spec, rows)


@pytest.mark.parametrize(
    ("spec", "array"),
    [
        (IMAGE, np.full((1, 3, 1), 0.1)),
        (IMAGE, np.ones((1, 3, 1), np.uint8)),
        (IMAGE, np.full((1, 3, 1), np.nan)),
        (IDS, np.array([7, -7], np.int64)),
        (IDS, np.array([True, False])),
        (TensorSpec(name="b", dtype="bfloat16", shape=(1,)), np.array([1.5])),
    ],
)
def test_conversions_that_keep_the_numbers(spec: TensorSpec, array: np.ndarray) -> None:
    with pytest.raises(InvalidRequest):
        check(spec, array)
    found = check(spec, array, convert=True)
    assert found.dtype == np.dtype(spec.dtype)
    np.testing.assert_array_equal(found, array.astype(spec.dtype))


@pytest.mark.parametrize("array", [np.array([1.5]), np.array([2**40]), np.array(["1"]), np.array([1j])])
def test_conversions_that_do_not_are_refused(array: np.ndarray) -> None:
    with pytest.raises(InvalidRequest, match="expected int32"):
        check(IDS, array, convert=True)


def test_foreign_byte_order_is_turned() -> None:
    found = check(IDS, np.array([1, 2], ">i4"))
    assert found.dtype == np.int32
    assert found.dtype.isnative
    assert found.tolist() == [1, 2]


@pytest.mark.parametrize(
    "array", [np.array(["é", "b"]), np.array(["é", "b"], object), np.array(["é".encode(), b"b"], object)]
)
def test_text_in_all_its_forms(array: np.ndarray) -> None:
    found = check(TEXT, array)
    assert found.dtype == object
    assert found.tolist() == ["é", "b"]


def test_what_is_no_text_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="not UTF-8"):
        check(TEXT, np.array([b"\xff"], object))
    with pytest.raises(InvalidRequest, match="holds 3: expected string"):
        check(TEXT, np.array(["a", 3], object))


def test_nan_and_any_shape_pass() -> None:
    spec = TensorSpec(name="x", dtype="bfloat16", shape=None)
    assert np.isnan(float(check(spec, np.array(np.nan, ml_dtypes.bfloat16))))
