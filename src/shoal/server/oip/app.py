"""The application that serves ONNX models behind the Open Inference Protocol."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import Route

from shoal.embeddings.encoder import TextEncoder
from shoal.errors import ConfigError, MissingExtra
from shoal.inference.repository import ModelRepository
from shoal.inference.served_chain import ServedChain, chain_index
from shoal.server.bodies.bodies import RequestBodies
from shoal.server.embeddings.routes import PATHS as EMBEDDING_PATHS
from shoal.server.embeddings.routes import EmbeddingApi
from shoal.server.http.auth import ApiKeyMiddleware
from shoal.server.http.draining import Drain, DrainMiddleware
from shoal.server.http.health.probes import STATUS_PATH, Probes
from shoal.server.http.host_check import HostMiddleware, cors_guard
from shoal.server.http.tls import TlsFiles
from shoal.server.oip.chains.routes import ChainApi
from shoal.server.oip.repository_calls import RepositoryCalls
from shoal.server.oip.rest.errors import HANDLED, answer_exception, from_exception, wrong_host, wrong_key
from shoal.server.oip.rest.routes import RestApi
from shoal.server.oip.status import RepositoryStatus
from shoal.server.ollama.routes import API_PATH
from shoal.server.web.routes import PageApi, PageOptions, page_at_work, page_routes

if TYPE_CHECKING:
    from shoal.server.oip.rpc.server import RpcServer

MAX_REQUEST_BYTES = 64 << 20
"""Larger requests are refused by default. Source: Triton, `--http-max-input-size`."""

_API = ("/v2", *EMBEDDING_PATHS, "/v1/models", API_PATH)
"""Paths whose requests need the key if there is one, are counted, and are refused while the server drains."""
_OPEN_PATHS = frozenset({"/v2/health/live", "/v2/health/ready"})
"""Paths that orchestrators use without a key, also while the server drains."""


def create_graph_app(
    repository: ModelRepository,
    *,
    api_key: str | None = None,
    max_request_bytes: int = MAX_REQUEST_BYTES,
    grpc_address: tuple[str, int] | None = None,
    tls: TlsFiles | None = None,
    allow_load: bool = False,
    allowed_hosts: Sequence[str] | None = None,
    cors_origins: Sequence[str] = (),
    chains: Sequence[ServedChain] = (),
    encoder: ServedEncoder | None = None,
    page: PageOptions | None = None,
) -> Starlette:
    """The HTTP application over a repository, and the gRPC server beside it.

    Its lifespan puts the repository's loaded models into service and closes them. `app.state.backend` is the
    repository, and `app.state.drain` counts and refuses requests.

    Args:
        repository: its models may be loaded already, or be loaded by clients.
        api_key: that clients must send as a bearer token; None: none.
        max_request_bytes: larger requests are refused before they are read.
        grpc_address: where to serve gRPC; None: nowhere.
        tls: of gRPC; None: without TLS.
        allow_load: whether clients may load and unload models without a key; with a key they always may.
        allowed_hosts: host names that requests may use besides this machine's own; None: any.
        cors_origins: web pages of other hosts that may use the server, see `check_origins`.
        chains: over the repository's models; closed with the app.
        encoder: computes embeddings with one of the repository's models; None: none does.
        page: the page at `/`; None: there is none.

    Raises:
        MissingExtra: gRPC is asked for and grpcio is not installed.
    """
    drain = Drain()
    bodies = RequestBodies(max_request_bytes)
    status = RepositoryStatus(repository, drain)
    page_api = None if page is None else PageApi(status, page, allowed_hosts)
    calls = RepositoryCalls(repository, may_change=allow_load or api_key is not None)
    rpc = None
    if grpc_address is not None:
        rpc = load_rpc_server()(repository, calls, status, drain, grpc_address, api_key, bodies, tls, chains)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncGenerator[None, None]:
        repository.start()
        try:
            if rpc is not None:
                await _start(rpc, repository)
            async with page_at_work(page_api):
                yield
        finally:
            if rpc is not None:
                await rpc.stop()
            for chain in chains:
                chain.close()
            if encoder is not None:
                encoder.encoder.close()
            await repository.close()
            bodies.close()

    app = Starlette(
        routes=[
            *(route for chain in chains for route in ChainApi(chain, bodies).routes()),
            *RestApi(repository, status, calls, bodies, partial(chain_index, chains)).routes(),
            *Probes(status).routes(),
            *page_routes(page_api),
            *(() if encoder is None else encoder.routes(bodies)),
        ],
        middleware=_guards(api_key, drain, allowed_hosts, cors_origins),
        exception_handlers=dict.fromkeys(HANDLED, answer_exception),
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False
    app.state.backend = repository
    app.state.drain = drain
    return app


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedEncoder:
    """A text encoder, and how clients reach it."""

    encoder: TextEncoder
    model_name: str
    strict_fields: bool = False
    """Refuse unknown fields in bodies."""

    def routes(self, bodies: RequestBodies) -> list[Route]:
        """The routes for embeddings and ranking, with a list of models."""
        api = EmbeddingApi(self.encoder, bodies, self.model_name, strict_fields=self.strict_fields)
        return [*api.routes(), *api.model_routes()]


def load_rpc_server() -> type[RpcServer]:
    """The class of the gRPC server. Raises MissingExtra if grpcio is not installed."""
    try:
        from shoal.server.oip.rpc.server import RpcServer
    except ModuleNotFoundError:
        raise MissingExtra("gRPC needs grpcio", "grpc") from None
    return RpcServer


async def _start(rpc: RpcServer, repository: ModelRepository) -> None:
    """Start gRPC, and end the server if that fails: uvicorn would print a traceback and exit as if all were well."""
    try:
        await rpc.start()
    except ConfigError as error:
        if repository.on_death is None:
            raise
        repository.on_death(str(error))


def _guards(
    api_key: str | None, drain: Drain, allowed_hosts: Sequence[str] | None, cors_origins: Sequence[str]
) -> list[Middleware]:
    common: dict[str, Any] = {"open_paths": _OPEN_PATHS}
    guarded = (*_API, STATUS_PATH)
    guards: list[Middleware] = cors_guard(cors_origins)
    if allowed_hosts is not None:
        guards.append(Middleware(HostMiddleware, allowed=allowed_hosts, refuse=wrong_host, origins=cors_origins))
    if api_key is not None:
        guards.append(Middleware(ApiKeyMiddleware, api_key=api_key, prefix=guarded, refuse=wrong_key, **common))
    return [*guards, Middleware(DrainMiddleware, drain=drain, prefix=_API, refuse=from_exception, **common)]
