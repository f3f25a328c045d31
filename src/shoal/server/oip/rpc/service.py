"""The methods of `inference.GRPCInferenceService` over one repository."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import grpc.aio

from shoal.errors import InvalidRequest, ShoalError
from shoal.inference.repository import ModelNotReady, ModelRepository, UnknownModel
from shoal.inference.served_chain import CHAIN_VERSION, ServedChain, chain_index
from shoal.server.bodies.bodies import RequestBodies
from shoal.server.http.draining import Drain
from shoal.server.oip.chains.calls import answer_of, chain_metadata, chain_statistics, inputs_of
from shoal.server.oip.inference import InferAnswer, InferCall, run_inference
from shoal.server.oip.metadata import model_config, model_metadata, repository_index, server_metadata
from shoal.server.oip.repository_calls import RepositoryCalls
from shoal.server.oip.rpc.infer_messages import (
    InferRequest,
    call_from,
    parse_request,
    response_bytes,
    stream_response_bytes,
)
from shoal.server.oip.rpc.messages import Messages
from shoal.server.oip.statistics import model_statistics
from shoal.server.oip.status import RepositoryStatus

T = TypeVar("T")
Context = grpc.aio.ServicerContext[Any, Any]

UNARY_METHODS = (
    "ServerLive",
    "ServerReady",
    "ModelReady",
    "ServerMetadata",
    "ModelMetadata",
    "ModelInfer",
    "ModelConfig",
    "ModelStatistics",
    "RepositoryIndex",
    "RepositoryModelLoad",
    "RepositoryModelUnload",
    "SystemSharedMemoryStatus",
    "SystemSharedMemoryUnregister",
    "CudaSharedMemoryStatus",
    "CudaSharedMemoryUnregister",
)
"""Methods with one request and one response, whose messages are called METHODRequest and METHODResponse."""

_QUICK_BYTES = 1 << 18
"""Messages and answers up to this size are processed in the event loop, faster than a thread could take them over."""


class InferenceService:
    """Methods have the protocol's names in Python's spelling. They raise ShoalError, which `server` turns into an
    answer."""

    def __init__(
        self,
        repository: ModelRepository,
        calls: RepositoryCalls,
        status: RepositoryStatus,
        drain: Drain,
        messages: Messages,
        bodies: RequestBodies,
        chains: Sequence[ServedChain] = (),
    ) -> None:
        self._chains = {served.chain.name: served for served in chains}
        self._calls = calls
        self._repository = repository
        self._status = status
        self._drain = drain
        self._messages = messages
        self._bodies = bodies

    async def server_live(self, request: Any, context: Context) -> Any:
        """ServerLive"""
        return self._messages.new("ServerLiveResponse", live=True)

    async def server_ready(self, request: Any, context: Context) -> Any:
        """ServerReady"""
        is_ready = await self._status.unreadiness() is None
        return self._messages.new("ServerReadyResponse", ready=is_ready)

    async def model_ready(self, request: Any, context: Context) -> Any:
        """ModelReady"""
        try:
            if (served := self._chain(request.name, request.version)) is not None:
                return self._messages.new("ModelReadyResponse", ready=served.failure is None)
            model = self._repository.get(request.name, request.version)
        except (UnknownModel, ModelNotReady):
            return self._messages.new("ModelReadyResponse", ready=False)
        is_ready = await self._status.unreadiness_of(model) is None
        return self._messages.new("ModelReadyResponse", ready=is_ready)

    async def server_metadata(self, request: Any, context: Context) -> Any:
        """ServerMetadata"""
        return self._messages.new("ServerMetadataResponse", **server_metadata())

    async def model_metadata(self, request: Any, context: Context) -> Any:
        """ModelMetadata"""
        if (served := self._chain(request.name, request.version)) is not None:
            return self._messages.new("ModelMetadataResponse", **_without_parameters(chain_metadata(served.chain)))
        model = self._repository.get(request.name, request.version)
        return self._messages.new("ModelMetadataResponse", **model_metadata(model))

    async def model_infer(
        self, request: bytes, context: Context, *, call_id: str = "", in_stream: bool = False
    ) -> bytes:
        """ModelInfer, and the successful answers of ModelStreamInfer."""
        with self._drain.request():
            given, call = await self._worked(len(request), lambda: self._call(request, context))
            answer = await self._run(call, call_id)
        num_bytes = sum(array.nbytes for array in answer.outputs.values())
        if not in_stream:
            return await self._worked(num_bytes, lambda: response_bytes(self._messages, answer))
        is_told_final = "triton_enable_empty_final_response" in given.message.parameters
        response = await self._worked(
            num_bytes, lambda: response_bytes(self._messages, answer, is_told_final=is_told_final)
        )
        return stream_response_bytes(response)

    def stream_error(self, request: bytes, error: ShoalError) -> bytes:
        """The answer of ModelStreamInfer to a request that failed: in streams, errors are answers."""
        response = self._messages.new("ModelStreamInferResponse", error_message=str(error))
        try:
            failed = parse_request(self._messages, request).message
        except InvalidRequest:
            return response.SerializeToString()
        response.infer_response.id, response.infer_response.model_name = failed.id, failed.model_name
        return response.SerializeToString()

    def _call(self, request: bytes, context: Context) -> tuple[InferRequest, InferCall]:
        given = parse_request(self._messages, request)
        return given, call_from(given, context.time_remaining())

    def _chain(self, name: str, version: str) -> ServedChain | None:
        """The chain of this name; None: there is none. Raises UnknownModel if the chain has no such version."""
        served = self._chains.get(name)
        if served is not None and version not in ("", CHAIN_VERSION):
            raise UnknownModel(f"chain {name!r} has no version {version!r}, only {CHAIN_VERSION}")
        return served

    async def _run(self, call: InferCall, call_id: str) -> InferAnswer:
        """Run a call of a chain or of a model."""
        served = self._chain(call.model_name, call.model_version)
        if served is None:
            return await run_inference(self._repository, call, call_id)
        outputs = await served.infer(inputs_of(served.chain, call), call.timeout_s, call_id)
        return answer_of(served.chain, call, outputs)

    async def _worked(self, num_bytes: int, work: Callable[[], T]) -> T:
        return work() if num_bytes <= _QUICK_BYTES else await self._bodies.off_loop(work)

    async def system_shared_memory_status(self, request: Any, context: Context) -> Any:
        """SystemSharedMemoryStatus: no region is ever registered."""
        return self._messages.new("SystemSharedMemoryStatusResponse")

    async def system_shared_memory_unregister(self, request: Any, context: Context) -> Any:
        """SystemSharedMemoryUnregister"""
        return self._messages.new("SystemSharedMemoryUnregisterResponse")

    async def cuda_shared_memory_status(self, request: Any, context: Context) -> Any:
        """CudaSharedMemoryStatus"""
        return self._messages.new("CudaSharedMemoryStatusResponse")

    async def cuda_shared_memory_unregister(self, request: Any, context: Context) -> Any:
        """CudaSharedMemoryUnregister"""
        return self._messages.new("CudaSharedMemoryUnregisterResponse")

    async def model_config(self, request: Any, context: Context) -> Any:
        """ModelConfig"""
        config = model_config(self._repository.get(request.name, request.version))
        return self._messages.new("ModelConfigResponse", config=config)

    async def model_statistics(self, request: Any, context: Context) -> Any:
        """ModelStatistics, of all models if none is named."""
        if (served := self._chain(request.name, request.version)) is not None:
            return self._messages.new("ModelStatisticsResponse", model_stats=[chain_statistics(served)])
        models = [self._repository.get(request.name, request.version)] if request.name else self._repository.models
        return self._messages.new("ModelStatisticsResponse", model_stats=[model_statistics(model) for model in models])

    async def repository_index(self, request: Any, context: Context) -> Any:
        """RepositoryIndex"""
        index = repository_index(self._repository, only_ready=request.ready)
        index += chain_index(tuple(self._chains.values()), request.ready)
        return self._messages.new("RepositoryIndexResponse", models=index)

    async def repository_model_load(self, request: Any, context: Context) -> Any:
        """RepositoryModelLoad"""
        await self._calls.load(request.model_name, request.parameters)
        return self._messages.new("RepositoryModelLoadResponse")

    async def repository_model_unload(self, request: Any, context: Context) -> Any:
        """RepositoryModelUnload"""
        await self._calls.unload(request.model_name)
        return self._messages.new("RepositoryModelUnloadResponse")


def _without_parameters(metadata: dict[str, Any]) -> dict[str, Any]:
    """Metadata for gRPC's messages, in which tensors have no parameters."""
    tensors = [{key: value for key, value in tensor.items() if key != "parameters"} for tensor in metadata["inputs"]]
    return {**metadata, "inputs": tensors}
