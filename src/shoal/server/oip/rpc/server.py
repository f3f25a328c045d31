"""The gRPC server, in the same event loop as the HTTP server."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import grpc.aio

from shoal.errors import ConfigError, ShoalError
from shoal.server.auth import ApiKeyCheck
from shoal.server.draining import Drain
from shoal.server.oip.repository import ModelRepository
from shoal.server.oip.repository_calls import RepositoryCalls
from shoal.server.oip.rpc.errors import status_of, trailing_metadata
from shoal.server.oip.rpc.messages import Messages
from shoal.server.oip.rpc.schema import PACKAGE
from shoal.server.oip.rpc.service import UNARY_METHODS, Context, InferenceService
from shoal.server.oip.status import RepositoryStatus
from shoal.server.serve import CUT_OFF_S
from shoal.server.tls import TlsFiles

SERVICE = f"{PACKAGE}.GRPCInferenceService"
_OPEN_METHODS = frozenset({"ServerLive", "ServerReady"})
"""What orchestrators ask without a key."""
_MAX_MESSAGE_BYTES = (1 << 31) - 1
"""Source: gRPC keeps the limit in a signed 32-bit integer."""


class RpcServer:
    """Serves a repository on one address."""

    def __init__(
        self,
        repository: ModelRepository,
        calls: RepositoryCalls,
        status: RepositoryStatus,
        drain: Drain,
        address: tuple[str, int],
        api_key: str | None,
        max_request_bytes: int,
        tls: TlsFiles | None = None,
    ) -> None:
        self._messages = Messages()
        self._service = InferenceService(repository, calls, status, drain, self._messages)
        self._address = address
        self._check = ApiKeyCheck(api_key) if api_key is not None else None
        self._max_request_bytes = max_request_bytes
        self._tls = tls
        self._server: grpc.aio.Server | None = None

    async def start(self) -> None:
        """Listen. Raises ConfigError where the address cannot be had."""
        options = [
            ("grpc.max_receive_message_length", min(self._max_request_bytes, _MAX_MESSAGE_BYTES)),
            ("grpc.max_send_message_length", -1),
            ("grpc.so_reuseport", 0),
        ]
        self._server = grpc.aio.server(options=options)
        self._server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE, self._handlers())])
        host, port = self._address
        try:
            self._listen(self._server, f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
        except RuntimeError as error:
            raise ConfigError(f"cannot listen on {host}:{port} for gRPC: choose another --grpc-port") from error
        await self._server.start()

    def _listen(self, server: grpc.aio.Server, address: str) -> None:
        if self._tls is None:
            server.add_insecure_port(address)
            return
        identity = (self._tls.key.read_bytes(), self._tls.cert.read_bytes())
        server.add_secure_port(address, grpc.ssl_server_credentials([identity]))

    async def stop(self) -> None:
        """End it. Requests that are still open had their time before; their errors may still be sent."""
        if self._server is not None:
            await self._server.stop(CUT_OFF_S)

    def _handlers(self) -> dict[str, grpc.RpcMethodHandler[Any, Any]]:
        handlers = {name: self._unary_handler(name) for name in UNARY_METHODS}
        handlers["ModelStreamInfer"] = grpc.stream_stream_rpc_method_handler(
            self._answered_stream(self._service.model_stream_infer),
            request_deserializer=self._messages["ModelInferRequest"].FromString,
            response_serializer=self._messages["ModelStreamInferResponse"].SerializeToString,
        )
        return handlers

    def _unary_handler(self, name: str) -> grpc.RpcMethodHandler[Any, Any]:
        method = getattr(self._service, re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower())
        return grpc.unary_unary_rpc_method_handler(
            self._answered(method, is_open=name in _OPEN_METHODS),
            request_deserializer=self._messages[f"{name}Request"].FromString,
            response_serializer=self._messages[f"{name}Response"].SerializeToString,
        )

    def _answered(
        self, method: Callable[[Any, Context], Awaitable[Any]], *, is_open: bool
    ) -> Callable[[Any, Context], Awaitable[Any]]:
        """The method with its errors answered as the protocol wants."""

        async def answer(request: Any, context: Context) -> Any:
            if not is_open:
                await self._authorize(context)
            try:
                return await method(request, context)
            except ShoalError as error:
                await context.abort(status_of(error), str(error), trailing_metadata(error))

        return answer

    def _answered_stream(
        self, method: Callable[[AsyncIterator[Any], Context], AsyncIterator[Any]]
    ) -> Callable[[AsyncIterator[Any], Context], AsyncIterator[Any]]:
        async def answer(requests: AsyncIterator[Any], context: Context) -> AsyncIterator[Any]:
            await self._authorize(context)
            async for response in method(requests, context):
                yield response

        return answer

    async def _authorize(self, context: Context) -> None:
        if self._check is None:
            return
        metadata = dict(context.invocation_metadata() or ())
        if not self._check.accepts(str(metadata.get("authorization", ""))):
            message = "missing or wrong API key: send the metadata `authorization: Bearer KEY`"
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, message)
