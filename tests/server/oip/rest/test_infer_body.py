"""Bodies of inference requests as clients write them."""

from __future__ import annotations

import json

import numpy as np
import pytest

from shoal.errors import InvalidRequest
from shoal.server.oip.rest.infer_body import SMALL_JSON_BYTES, ParsedBody, parse_body


def parsed(shape: list[int], data: object) -> ParsedBody:
    body = json.dumps({"inputs": [{"name": "x", "shape": shape, "datatype": "FP32", "data": data}]}).encode()
    assert len(body) > SMALL_JSON_BYTES
    return parse_body(body, None, model_name="m", model_version="")


def test_a_list_around_each_value() -> None:
    """As NumPy's `tolist` writes a sound of one channel, or a picture whose colors come last."""
    sound = np.arange(43_844, dtype=np.float32).reshape(1, -1, 1)
    found = parsed([*sound.shape], sound.tolist()).call.inputs["x"]
    assert np.array_equal(found, sound)


@pytest.mark.parametrize("shape", [[1, 43_844], [43_844, 1, 1], [2, 21_922, 1]])
def test_a_list_around_each_value_that_is_not_the_shape(shape: list[int]) -> None:
    with pytest.raises(InvalidRequest, match="or be nested as `shape` is"):
        parsed(shape, np.zeros((1, 43_844, 1)).tolist())
