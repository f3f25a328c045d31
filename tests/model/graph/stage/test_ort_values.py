"""Arrays as ONNX Runtime's values and back; tests/numerics/graphs/test_value_sweep.py has every type."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from shoal.model.graph.stage.ort_values import as_array, to_array, to_value


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int4", "string"])
@pytest.mark.parametrize("shape", [(), (1,), (0,), (2, 0, 3), (2, 1, 3)])
def test_the_rank_stays_what_it_is(dtype: str, shape: tuple[int, ...]) -> None:
    array = np.full(shape, "1", object) if dtype == "string" else np.ones(shape, dtype)
    value = to_value(array, dtype)
    assert value.shape() == list(shape)
    for back in (to_array(value, dtype), as_array(value)):
        assert (back.shape, back.dtype, back.tolist()) == (array.shape, array.dtype, array.tolist())


def test_several_elements_a_byte_keep_their_order() -> None:
    array = np.array([[1, -2, 3], [-4, 5, -6]], ml_dtypes.int4)
    value = to_value(array, "int4")
    assert value.tensor_size_in_bytes() == 3
    assert to_array(value, "int4").tolist() == array.tolist()


def test_rows_that_lie_apart_are_joined() -> None:
    columns = np.arange(6, dtype=np.float32).reshape(2, 3).T
    assert to_value(columns, "float32").numpy().tolist() == columns.tolist()


def test_texts_may_be_bytes_and_hold_any_character() -> None:
    texts = np.array(["a\0b", "日本".encode(), ""], object)
    assert to_array(to_value(texts, "string"), "string").tolist() == ["a\0b", "日本", ""]


def test_an_array_of_its_own_outlives_the_value() -> None:
    value = to_value(np.ones(3, ml_dtypes.bfloat16), "bfloat16")
    array = to_array(value, "bfloat16")
    as_array(value)[:] = 2
    assert array.tolist() == [1, 1, 1]
