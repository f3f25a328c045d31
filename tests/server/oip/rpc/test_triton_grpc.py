"""tritonclient.grpc works unchanged, and the messages are those of the specification."""

from __future__ import annotations

import queue
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as client
from google.protobuf.descriptor import Descriptor
from tritonclient.grpc import model_config_pb2, service_pb2
from tritonclient.utils import InferenceServerException

from shoal.server.oip.rpc.messages import Messages
from shoal.server.oip.rpc.schema import ENUMS, MESSAGES
from tests.server.oip.running import RunningServer
from tests.server.oip.triton_inputs import IDS, X, doubler_inputs, tensor

Client = client.InferenceServerClient


def reference(name: str) -> Descriptor:
    outer, _, inner = name.partition(".")
    module = service_pb2 if outer in service_pb2.DESCRIPTOR.message_types_by_name else model_config_pb2
    found = module.DESCRIPTOR.message_types_by_name[outer]
    return found.nested_types_by_name[inner] if inner else found


@pytest.mark.parametrize("name", MESSAGES)
def test_fields_are_those_of_the_specification(name: str) -> None:
    expected = reference(name).fields_by_name
    fields = Messages()[name].DESCRIPTOR.fields
    assert len(fields) == len(MESSAGES[name])
    for field in fields:
        other = expected[field.name]
        assert (field.number, field.type, field.is_repeated) == (other.number, other.type, other.is_repeated)
        assert (field.message_type and field.message_type.full_name) == (
            other.message_type and other.message_type.full_name
        )
        assert (field.containing_oneof and field.containing_oneof.name) == (
            other.containing_oneof and other.containing_oneof.name
        )


def test_the_enumeration_is_that_of_the_specification() -> None:
    expected = model_config_pb2.DESCRIPTOR.enum_types_by_name["DataType"].values_by_number
    assert ENUMS["DataType"] == tuple(expected[number].name for number in range(len(expected)))


def test_health_and_metadata(triton_grpc: Client) -> None:
    assert triton_grpc.is_server_live()
    assert triton_grpc.is_server_ready()
    assert triton_grpc.is_model_ready("doubler", "1")
    assert not triton_grpc.is_model_ready("doubler", "2")
    assert not triton_grpc.is_model_ready("nobody")
    assert triton_grpc.get_server_metadata().name == "shoal"
    metadata = triton_grpc.get_model_metadata("doubler")
    assert [(one.name, one.datatype, list(one.shape)) for one in metadata.inputs] == [
        ("x", "FP32", [-1, 4]),
        ("ids", "INT64", [-1, -1]),
    ]
    config = triton_grpc.get_model_config("doubler").config
    assert (config.max_batch_size, list(config.input[0].dims)) == (32, [4])
    assert config.input[0].data_type == model_config_pb2.TYPE_FP32


def test_infer(triton_grpc: Client) -> None:
    outputs = [client.InferRequestedOutput(name) for name in ("z", "y")]
    result = triton_grpc.infer("doubler", doubler_inputs(client), outputs=outputs, request_id="abc")
    np.testing.assert_array_equal(result.as_numpy("y"), 2 * X)
    np.testing.assert_array_equal(result.as_numpy("z"), IDS)
    response = result.get_response()
    assert (response.id, response.model_name, response.model_version) == ("abc", "doubler", "1")
    assert [output.name for output in response.outputs] == ["z", "y"]


def test_strings(triton_grpc: Client) -> None:
    array = np.array(["", "größer 🐟", "x" * 300], dtype=object)
    answer = triton_grpc.infer("echo_string", [tensor(client, "value", array)]).as_numpy("result")
    assert [item.decode() for item in answer] == array.tolist()


@pytest.mark.parametrize(
    ("dtype", "datatype", "field", "values"),
    [
        ("bool", "BOOL", "bool_contents", [True, False]),
        ("int8", "INT8", "int_contents", [-128, 127]),
        ("int64", "INT64", "int64_contents", [-(1 << 63), 5]),
        ("uint16", "UINT16", "uint_contents", [0, 65535]),
        ("uint64", "UINT64", "uint64_contents", [0, (1 << 64) - 1]),
        ("float32", "FP32", "fp32_contents", [0.5, -1.5]),
        ("float64", "FP64", "fp64_contents", [0.1, 1e300]),
    ],
)
def test_typed_contents(triton_grpc: Client, dtype: str, datatype: str, field: str, values: list) -> None:
    request = service_pb2.ModelInferRequest(model_name=f"echo_{dtype}")
    given = request.inputs.add(name="value", datatype=datatype, shape=[2])
    getattr(given.contents, field).extend(values)
    response = triton_grpc._client_stub.ModelInfer(request)
    assert np.frombuffer(response.raw_output_contents[0], dtype).tolist() == values


def test_errors_have_a_code_and_a_message(triton_grpc: Client) -> None:
    with pytest.raises(InferenceServerException, match="'ids' is missing") as caught:
        triton_grpc.infer("doubler", doubler_inputs(client)[:1])
    assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"
    with pytest.raises(InferenceServerException, match="unknown model: 'nobody'") as caught:
        triton_grpc.infer("nobody", doubler_inputs(client))
    assert caught.value.status() == "StatusCode.NOT_FOUND"
    wrong = service_pb2.ModelInferRequest(model_name="echo_int8")
    wrong.inputs.add(name="value", datatype="INT8", shape=[1]).contents.int_contents.append(300)
    with pytest.raises(Exception, match="does not fit INT8"):
        triton_grpc._client_stub.ModelInfer(wrong)


def test_a_message_above_the_limit_is_refused(triton_grpc: Client) -> None:
    with pytest.raises(InferenceServerException) as caught:
        triton_grpc.infer("echo_float32", [tensor(client, "value", np.zeros(1 << 19, np.float32))])
    assert caught.value.status() == "StatusCode.RESOURCE_EXHAUSTED"


def test_stream(triton_grpc: Client) -> None:
    answers: queue.Queue = queue.Queue()
    triton_grpc.start_stream(lambda result, error: answers.put((result, error)))
    triton_grpc.async_stream_infer("doubler", doubler_inputs(client), request_id="first")
    triton_grpc.async_stream_infer("doubler", doubler_inputs(client)[:1], request_id="broken")
    triton_grpc.async_stream_infer("doubler", doubler_inputs(client), request_id="last")
    (first, _), (_, error), (last, _) = (answers.get(timeout=30) for _ in range(3))
    triton_grpc.stop_stream()
    assert [one.get_response().id for one in (first, last)] == ["first", "last"]
    np.testing.assert_array_equal(last.as_numpy("y"), 2 * X)
    assert "'ids' is missing" in str(error)


def test_repository_and_statistics(triton_grpc: Client) -> None:
    triton_grpc.infer("echo_uint8", [tensor(client, "value", np.ones(3, np.uint8))])
    (statistics,) = triton_grpc.get_inference_statistics("echo_uint8").model_stats
    assert statistics.inference_stats.success.count == 1
    triton_grpc.unload_model("echo_uint8")
    states = {model.name: (model.state, model.reason) for model in triton_grpc.get_model_repository_index().models}
    assert states["echo_uint8"] == ("UNAVAILABLE", "unloaded")
    assert not triton_grpc.is_model_ready("echo_uint8")
    triton_grpc.load_model("echo_uint8")
    assert triton_grpc.is_model_ready("echo_uint8")
    with pytest.raises(InferenceServerException, match="config"):
        triton_grpc.load_model("echo_uint8", config="{}")
    with pytest.raises(InferenceServerException, match="is broken"):
        triton_grpc.load_model("broken")


def test_shared_memory_that_nobody_has_is_given_up_in_peace(
    triton_grpc: client.InferenceServerClient,
) -> None:
    assert not triton_grpc.get_system_shared_memory_status().regions
    assert not triton_grpc.get_cuda_shared_memory_status().regions
    triton_grpc.unregister_system_shared_memory()
    triton_grpc.unregister_cuda_shared_memory("region")


def test_the_only_answer_of_a_stream_is_its_final_one(server: RunningServer) -> None:
    answers: queue.Queue[Any] = queue.Queue()
    with client.InferenceServerClient(server.grpc_address) as grpc_client:
        grpc_client.start_stream(lambda result, error: answers.put(error or result))
        inputs = doubler_inputs(client)
        grpc_client.async_stream_infer("doubler", inputs, sequence_id=7, enable_empty_final_response=True)
        result = answers.get(timeout=30)
        grpc_client.stop_stream()
    assert result.get_response().parameters["triton_final_response"].bool_param


def test_keepalive_pings_are_answered(server: RunningServer) -> None:
    options = client.KeepAliveOptions(keepalive_time_ms=10_000, keepalive_permit_without_calls=True)
    with client.InferenceServerClient(server.grpc_address, keepalive_options=options) as grpc_client:
        assert grpc_client.is_server_live()
