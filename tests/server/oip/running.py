"""A real server on free loopback ports, over fake graphs."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from shoal.chains.definition import Chain
from shoal.core.batching.config import BatchingConfig
from shoal.inference.model_files import ModelFile
from shoal.inference.repository import ModelRepository
from shoal.inference.served_chain import ServedChain
from shoal.server.http.serve import AppServer, bind, url_of
from shoal.server.http.tls import TlsFiles
from shoal.server.oip.app import MAX_REQUEST_BYTES, ServedEncoder, create_graph_app
from shoal.server.web.routes import PageOptions
from tests.comm.loopback import free_port, own_loopback_address
from tests.server.oip.fakes import FakeGraph, FakeLoader, doubler, echo

_INTEGERS = ("uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64")
ECHOED = ("bool", *_INTEGERS, "float16", "float32", "float64", "bfloat16", "string")


@dataclass(frozen=True, kw_only=True)
class RunningServer:
    url: str
    """of HTTP, with the scheme"""
    address: str
    """of HTTP, without it"""
    grpc_address: str
    loader: FakeLoader
    repository: ModelRepository
    server: AppServer
    loop: asyncio.AbstractEventLoop


def echoes() -> dict[str, Callable[[], FakeGraph]]:
    return {f"echo_{dtype}": (lambda dtype=dtype: echo(dtype)) for dtype in ECHOED}


@contextmanager
def run_server(
    makers: Mapping[str, Callable[[], FakeGraph]] | None = None,
    *,
    load: Sequence[str] | None = None,
    batching: BatchingConfig | None = None,
    api_key: str | None = None,
    max_request_bytes: int = MAX_REQUEST_BYTES,
    tls: TlsFiles | None = None,
    allow_load: bool = True,
    allowed_hosts: Sequence[str] | None = None,
    cors_origins: Sequence[str] = (),
    encoder: ServedEncoder | None = None,
    chains: Sequence[Chain] = (),
    page: PageOptions | None = None,
) -> Generator[RunningServer, None, None]:
    """Serve in a thread until the block ends. `load`: what to load at the start; None: everything."""
    loader = FakeLoader(makers or {"doubler": doubler})
    files = {name: ModelFile(name=name, version="1", path=Path(f"{name}.onnx")) for name in loader.makers}
    files["broken"] = ModelFile(name="broken", version="1", path=Path("broken.onnx"))
    repository = ModelRepository(lambda: files, loader, lambda file: batching or BatchingConfig())
    for name in loader.makers if load is None else load:
        repository.load_now(name)
    grpc_address = (own_loopback_address(), free_port())
    app = create_graph_app(
        repository,
        api_key=api_key,
        max_request_bytes=max_request_bytes,
        grpc_address=grpc_address,
        tls=tls,
        allow_load=allow_load,
        allowed_hosts=allowed_hosts,
        cors_origins=cors_origins,
        encoder=encoder,
        chains=[ServedChain(chain, repository) for chain in chains],
        page=page,
    )
    sock = bind("127.0.0.1", 0)
    started: queue.Queue[asyncio.AbstractEventLoop] = queue.Queue()
    server = AppServer(app, tls=tls, on_started=lambda: started.put(asyncio.get_running_loop()))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]})
    thread.start()
    url = url_of(sock, tls)
    try:
        loop = started.get(timeout=30)
        yield RunningServer(
            url=url,
            address=url.partition("://")[2],
            grpc_address="{}:{}".format(*grpc_address),
            loader=loader,
            repository=repository,
            server=server,
            loop=loop,
        )
    finally:
        server.should_exit = True
        thread.join(30)
    assert not thread.is_alive()
    assert all(graph.num_closed for graphs in loader.loaded.values() for graph in graphs)
