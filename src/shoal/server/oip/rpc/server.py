"""The gRPC server, in the same event loop as the HTTP server."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import grpc
import grpc.aio

from shoal.errors import ConfigError, DeadlineExceeded, InvalidRequest, ShoalError
from shoal.inference.repository import ModelRepository
from shoal.inference.served_chain import ServedChain
from shoal.server.bodies.bodies import RequestBodies
from shoal.server.http.auth import ApiKeyCheck
from shoal.server.http.draining import Drain
from shoal.server.http.serve import CUT_OFF_S
from shoal.server.http.tls import TlsFiles
from shoal.server.oip.repository_calls import RepositoryCalls
from shoal.server.oip.rpc.call_log import NamedCall, named_call
from shoal.server.oip.rpc.errors import status_of, trailing_metadata
from shoal.server.oip.rpc.messages import Messages
from shoal.server.oip.rpc.schema import PACKAGE
from shoal.server.oip.rpc.service import UNARY_METHODS, Context, InferenceService
from shoal.server.oip.status import RepositoryStatus

SERVICE = f"{PACKAGE}.GRPCInferenceService"
_OPEN_METHODS = frozenset({"ServerLive", "ServerReady"})
"""Methods that orchestrators use without a key."""
_LARGEST_BYTES = (1 << 31) - 1
"""Source: gRPC keeps the limit in a signed 32-bit integer."""
COPIED_BYTES = 16 << 20
_SHARE = 4
"""gRPC's library copies a message several times in the event loop, 16 MiB in about 15 ms. So a message may have a
quarter of the size of a request over HTTP, or up to this many bytes."""
MAX_UNREAD_BYTES = 1 << 30
"""Limit for messages that are being received, which no limit of gRPC covers together; streams may have as much
again."""
MIN_READS = 4
READ_TIMEOUT_S = 20.0
"""Time from the call to the end of its message. A judgment: 16 MiB over 10 Mbit/s."""
MAX_CONCURRENT_RPCS = 1_024
"""Further calls get RESOURCE_EXHAUSTED before they are read. A judgment: the queue would refuse them anyway."""
MAX_STREAMS = 256
"""Concurrent streams of one connection."""
MIN_PING_INTERVAL_MS = 10_000
"""Clients may send keepalive pings this often. Source: gRPC's guide to keepalive, the shortest interval for clients; by
default servers accept no more than one ping in five minutes."""
KEEPALIVE_MS = 60_000
KEEPALIVE_TIMEOUT_MS = 20_000
"""A client that has been silent for this long is pinged, and disconnected if it does not answer."""
MAX_SMALL_BYTES = 1 << 16
"""Limit for requests without tensors."""

_INTERNAL = "internal error; see the server's log"
_log = logging.getLogger(__name__)


def max_message_bytes(max_request_bytes: int) -> int:
    """The largest message that is accepted if HTTP accepts bodies of `max_request_bytes`."""
    return min(_LARGEST_BYTES, max(max_request_bytes // _SHARE, min(max_request_bytes, COPIED_BYTES)))


class _KeyInterceptor(grpc.aio.ServerInterceptor):
    """Refuses calls without the key by their metadata, before any of their messages is read."""

    def __init__(self, check: ApiKeyCheck) -> None:
        self._check = check

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """The method's own handler, or one that refuses the call."""
        method = handler_call_details.method.rpartition("/")[2]
        metadata = dict(handler_call_details.invocation_metadata or ())
        if method in _OPEN_METHODS or self._check.accepts(str(metadata.get("authorization", ""))):
            return await continuation(handler_call_details)
        return grpc.stream_stream_rpc_method_handler(_refuse_key)  # for any kind of call, since it reads nothing


async def _refuse_key(requests: AsyncIterator[Any], context: Context) -> None:
    message = "missing or wrong API key: send the metadata `authorization: Bearer KEY`"
    async with named_call("without the key", context) as call:
        await call.abort(context, grpc.StatusCode.UNAUTHENTICATED, message)


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
        bodies: RequestBodies,
        tls: TlsFiles | None = None,
        chains: Sequence[ServedChain] = (),
    ) -> None:
        self._messages = Messages()
        self._service = InferenceService(repository, calls, status, drain, self._messages, bodies, chains)
        self._address = address
        self._check = ApiKeyCheck(api_key) if api_key is not None else None
        self._bodies = bodies
        self._max_message_bytes = max_message_bytes(bodies.limit_bytes)
        self._max_reads = max(MIN_READS, MAX_UNREAD_BYTES // self._max_message_bytes)
        self._readers = asyncio.Semaphore(self._max_reads)
        self._num_streams = 0
        self._tls = tls
        self._server: grpc.aio.Server | None = None

    async def start(self) -> None:
        """Listen. Raises ConfigError if the address is not available."""
        options = [
            ("grpc.max_receive_message_length", self._max_message_bytes),
            ("grpc.max_send_message_length", -1),
            ("grpc.so_reuseport", 0),
            ("grpc.max_concurrent_streams", MAX_STREAMS),
            ("grpc.http2.min_ping_interval_without_data_ms", MIN_PING_INTERVAL_MS),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.keepalive_time_ms", KEEPALIVE_MS),
            ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
        ]
        interceptors = () if self._check is None else (_KeyInterceptor(self._check),)
        self._server = grpc.aio.server(
            options=options, interceptors=interceptors, maximum_concurrent_rpcs=MAX_CONCURRENT_RPCS
        )
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
        """End the server. Open requests have had their time before; their errors may still be sent."""
        if self._server is not None:
            await self._server.stop(CUT_OFF_S)

    def _handlers(self) -> dict[str, grpc.RpcMethodHandler[Any, Any]]:
        handlers = {name: self._unary_handler(name) for name in UNARY_METHODS}
        handlers["ModelStreamInfer"] = grpc.stream_stream_rpc_method_handler(self._answer_stream)
        return handlers

    def _unary_handler(self, name: str) -> grpc.RpcMethodHandler[Any, Any]:
        """gRPC sees the request as a stream of one message, which is not read before there is memory for it."""
        method = getattr(self._service, re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower())

        async def answer(requests: AsyncIterator[bytes], context: Context) -> Any:
            async with named_call(name, context) as call:
                return await answer_named(requests, context, call)

        async def answer_named(requests: AsyncIterator[bytes], context: Context, call: NamedCall) -> Any:
            try:
                async with self._message_of(requests) as message:
                    if name == "ModelInfer":
                        return await method(message, context, call_id=call.request_id)
                    return (await method(self._parsed(name, message), context)).SerializeToString()
            except ShoalError as error:
                code, text, trailing = status_of(error), str(error), trailing_metadata(error)
            except Exception:
                _log.exception("gRPC method %s failed", name)
                code, text, trailing = grpc.StatusCode.INTERNAL, _INTERNAL, ()
            return await call.abort(context, code, text, trailing)

        return grpc.stream_unary_rpc_method_handler(answer)

    @asynccontextmanager
    async def _message_of(self, requests: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
        """The only message of a call, counted as in memory. Raises InvalidRequest, QueueFull, DeadlineExceeded."""
        try:
            async with asyncio.timeout(READ_TIMEOUT_S), self._readers:
                message = await anext(requests)
        except TimeoutError:
            raise DeadlineExceeded(f"the request did not arrive within {READ_TIMEOUT_S:.0f} s") from None
        except StopAsyncIteration:
            raise InvalidRequest("the call has no message") from None
        with self._counted(message):
            yield message

    @contextmanager
    def _counted(self, message: bytes) -> Generator[None, None, None]:
        """Raises QueueFull."""
        self._bodies.take(len(message))
        try:
            yield
        finally:
            self._bodies.give(len(message))

    async def _answer_stream(self, requests: AsyncIterator[bytes], context: Context) -> AsyncIterator[bytes]:
        async with named_call("ModelStreamInfer", context) as call:
            if self._num_streams >= self._max_reads:
                await call.abort(
                    context, grpc.StatusCode.RESOURCE_EXHAUSTED, f"there are {self._max_reads} streams already"
                )
            self._num_streams += 1
            try:
                async for request in requests:
                    yield await self._answer_in_stream(request, context, call.request_id)
            finally:
                self._num_streams -= 1

    async def _answer_in_stream(self, request: bytes, context: Context, call_id: str) -> bytes:
        try:
            with self._counted(request):
                return await self._service.model_infer(request, context, call_id=call_id, in_stream=True)
        except ShoalError as error:
            return self._service.stream_error(request, error)
        except Exception:
            _log.exception("ModelStreamInfer failed")
            return self._messages.new("ModelStreamInferResponse", error_message=_INTERNAL).SerializeToString()

    def _parsed(self, name: str, message: bytes) -> Any:
        """Raises InvalidRequest."""
        if len(message) > MAX_SMALL_BYTES:
            raise InvalidRequest(f"the request has {len(message)} bytes, but at most {MAX_SMALL_BYTES} are allowed")
        return self._messages.parsed(f"{name}Request", message)
