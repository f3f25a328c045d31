"""tritonclient.http works unchanged."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
import tritonclient.http as client
from tritonclient.utils import InferenceServerException

from tests.server.oip.triton_inputs import IDS, X, doubler_inputs, tensor

Client = client.InferenceServerClient


def test_health_and_metadata(triton_http: Client) -> None:
    assert triton_http.is_server_live()
    assert triton_http.is_server_ready()
    assert triton_http.is_model_ready("doubler")
    assert triton_http.is_model_ready("doubler", "1")
    assert not triton_http.is_model_ready("doubler", "2")
    assert not triton_http.is_model_ready("nobody")
    assert triton_http.get_server_metadata()["name"] == "shoal"
    assert triton_http.get_model_metadata("doubler", "1") == {
        "name": "doubler",
        "versions": ["1"],
        "platform": "onnxruntime_onnx",
        "inputs": [
            {"name": "x", "datatype": "FP32", "shape": [-1, 4]},
            {"name": "ids", "datatype": "INT64", "shape": [-1, -1]},
        ],
        "outputs": [
            {"name": "y", "datatype": "FP32", "shape": [-1, 4]},
            {"name": "z", "datatype": "INT64", "shape": [-1, -1]},
        ],
    }


def test_configuration_leaves_out_the_batch_axis(triton_http: Client) -> None:
    config = triton_http.get_model_config("doubler")
    assert config["max_batch_size"] == 32
    assert config["input"][0] == {"name": "x", "data_type": "TYPE_FP32", "dims": [4]}
    config = triton_http.get_model_config("echo_string")
    assert config["max_batch_size"] == 0
    assert config["input"] == [{"name": "value", "data_type": "TYPE_STRING", "dims": [-1]}]


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False, None])
def test_infer(triton_http: Client, binary_in: bool, binary_out: bool | None) -> None:
    outputs = None
    if binary_out is not None:
        outputs = [client.InferRequestedOutput(name, binary_data=binary_out) for name in ("z", "y")]
    result = triton_http.infer(
        "doubler", doubler_inputs(client, binary_data=binary_in), outputs=outputs, request_id="abc", model_version="1"
    )
    np.testing.assert_array_equal(result.as_numpy("y"), 2 * X)
    np.testing.assert_array_equal(result.as_numpy("z"), IDS)
    response = result.get_response()
    assert (response["id"], response["model_name"], response["model_version"]) == ("abc", "doubler", "1")
    assert [output["name"] for output in response["outputs"]] == (["y", "z"] if outputs is None else ["z", "y"])
    assert all(("data" in output) is (binary_out is False) for output in response["outputs"])


def test_one_output_binary_and_one_as_json(triton_http: Client) -> None:
    outputs = [client.InferRequestedOutput("y", binary_data=False), client.InferRequestedOutput("z", binary_data=True)]
    result = triton_http.infer("doubler", doubler_inputs(client), outputs=outputs)
    np.testing.assert_array_equal(result.as_numpy("y"), 2 * X)
    np.testing.assert_array_equal(result.as_numpy("z"), IDS)


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_compressed_requests(triton_http: Client, algorithm: str) -> None:
    result = triton_http.infer(
        "doubler",
        doubler_inputs(client),
        request_compression_algorithm=algorithm,
        response_compression_algorithm=algorithm,
    )
    np.testing.assert_array_equal(result.as_numpy("y"), 2 * X)


ARRAYS = [
    np.array([[True, False], [False, True]]),
    *(np.array([[np.iinfo(kind).min, 0, np.iinfo(kind).max]], kind) for kind in ("u1", "u2", "u4", "u8")),
    *(np.array([[np.iinfo(kind).min, 0, np.iinfo(kind).max]], kind) for kind in ("i1", "i2", "i4", "i8")),
    *(np.array([0.1, -2.5, np.finfo(kind).max], kind) for kind in ("f2", "f4", "f8")),
]


@pytest.mark.parametrize("array", [*ARRAYS, ARRAYS[0].astype(ml_dtypes.bfloat16)], ids=lambda array: str(array.dtype))
def test_every_type_in_binary(triton_http: Client, array: np.ndarray) -> None:
    result = triton_http.infer(f"echo_{array.dtype.name}", [tensor(client, "value", array)])
    answer = result.as_numpy("result")
    assert answer.dtype == array.dtype
    np.testing.assert_array_equal(answer, array)


@pytest.mark.parametrize("array", ARRAYS, ids=lambda array: str(array.dtype))
def test_every_type_in_json(triton_http: Client, array: np.ndarray) -> None:
    output = client.InferRequestedOutput("result", binary_data=False)
    given = tensor(client, "value", array, binary_data=False)
    answer = triton_http.infer(f"echo_{array.dtype.name}", [given], outputs=[output]).as_numpy("result")
    assert answer.dtype == array.dtype
    np.testing.assert_array_equal(answer, array)


@pytest.mark.parametrize("binary", [True, False])
def test_strings(triton_http: Client, binary: bool) -> None:
    array = np.array([["", "größer 🐟"], ["a\0b\0", "x" * 300]], dtype=object)
    output = client.InferRequestedOutput("result", binary_data=binary)
    given = tensor(client, "value", array, binary_data=binary)
    answer = triton_http.infer("echo_string", [given], outputs=[output]).as_numpy("result")
    texts = [item.decode() if binary else item for item in answer.ravel()]
    assert texts == array.ravel().tolist()
    assert answer.shape == (2, 2)


def test_scalars_and_empty_tensors(triton_http: Client) -> None:
    for array in (np.array(7, np.int32), np.zeros((0, 3), np.int32)):
        answer = triton_http.infer("echo_int32", [tensor(client, "value", array)]).as_numpy("result")
        assert answer.shape == array.shape
        np.testing.assert_array_equal(answer, array)


def test_what_is_not_finite_goes_through_in_binary(triton_http: Client) -> None:
    array = np.array([np.nan, np.inf, -np.inf, 1], np.float32)
    answer = triton_http.infer("echo_float32", [tensor(client, "value", array)]).as_numpy("result")
    assert answer.tobytes() == array.tobytes()


def test_nan_in_json_is_null(triton_http: Client) -> None:
    array = np.array([np.nan, 1], np.float32)
    output = client.InferRequestedOutput("result", binary_data=False)
    result = triton_http.infer("echo_float32", [tensor(client, "value", array, binary_data=False)], outputs=[output])
    assert result.get_output("result")["data"] == [None, 1.0]
    np.testing.assert_array_equal(result.as_numpy("result"), array)


def test_errors_are_exceptions_with_a_message(triton_http: Client) -> None:
    with pytest.raises(InferenceServerException, match="'ids' is missing") as caught:
        triton_http.infer("doubler", doubler_inputs(client)[:1])
    assert caught.value.status() == "400"
    with pytest.raises(InferenceServerException, match="13 brings bad luck"):
        triton_http.infer("doubler", [tensor(client, "x", X[:1] * 0 + 13), tensor(client, "ids", IDS[:1])])
    with pytest.raises(InferenceServerException, match="unknown model: 'nobody'") as caught:
        triton_http.infer("nobody", doubler_inputs(client))
    assert caught.value.status() == "404"


def test_asynchronous_inference(triton_http: Client) -> None:
    pending = [triton_http.async_infer("doubler", doubler_inputs(client)) for _ in range(4)]
    for request in pending:
        np.testing.assert_array_equal(request.get_result().as_numpy("y"), 2 * X)


def test_statistics(triton_http: Client) -> None:
    before = triton_http.get_inference_statistics("doubler")["model_stats"][0]
    triton_http.infer("doubler", doubler_inputs(client))
    (after,) = triton_http.get_inference_statistics("doubler")["model_stats"]
    assert after["inference_count"] - before["inference_count"] == 2
    assert after["execution_count"] - before["execution_count"] == 1
    assert after["inference_stats"]["success"]["count"] - before["inference_stats"]["success"]["count"] == 1
    assert after["inference_stats"]["compute_infer"]["ns"] > before["inference_stats"]["compute_infer"]["ns"]
    assert len(triton_http.get_inference_statistics()["model_stats"]) > 1


def test_shared_memory_that_nobody_has_is_given_up_in_peace(
    triton_http: client.InferenceServerClient,
) -> None:
    assert triton_http.get_system_shared_memory_status() == []
    assert triton_http.get_cuda_shared_memory_status() == []
    triton_http.unregister_system_shared_memory()
    triton_http.unregister_cuda_shared_memory("region")


def test_large_inputs_as_json(triton_http: Client) -> None:
    """Numbers of more than `SMALL_JSON_BYTES`, which are left as text at first."""
    rows = np.arange(40_000, dtype=np.float32).reshape(-1, 4) / 7
    values = {"x": rows, "ids": np.arange(2 * len(rows)).reshape(-1, 2)}
    result = triton_http.infer(
        "doubler", [tensor(client, name, one, binary_data=False) for name, one in values.items()]
    )
    np.testing.assert_allclose(result.as_numpy("y"), 2 * rows, rtol=1e-6)
    np.testing.assert_array_equal(result.as_numpy("z"), values["ids"])
