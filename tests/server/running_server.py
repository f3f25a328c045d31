"""A real uvicorn server on a free loopback port, over the fake engine."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from shoal.core.generation.admission import AdmissionConfig
from shoal.generation.data_plane import DataPlane
from shoal.generation.seams import PicturePrompts
from shoal.server.app import create_app
from shoal.server.assembly import AppOptions
from shoal.server.generation.generation_status import MachineState
from shoal.server.generation.metrics import ServerMetrics
from shoal.server.http.serve import AppServer, bind, url_of
from shoal.server.http.tls import TlsFiles
from shoal.server.web.routes import PageOptions
from tests.server.fakes import ByteTokenizer, FakeEngine

MODEL = "tiny"


@dataclass(frozen=True, kw_only=True)
class RunningServer:
    url: str
    engine: FakeEngine
    data_plane: DataPlane
    loop: asyncio.AbstractEventLoop
    server: AppServer


PLAN = {
    "split": "pp=1:1",
    "link_precision": "int8",
    "workers": [
        {
            "replica": 0,
            "stage": stage,
            "shard": 0,
            "first_layer": stage,
            "last_layer": stage + 1,
            "threads": 1,
            "machine": machine,
            "weight_bytes": 1_000_000,
        }
        for stage, machine in enumerate("ab")
    ],
}
"""what `/status` says of the split"""


@contextmanager
def run_server(
    engine: FakeEngine,
    *,
    api_key: str | None = None,
    has_chat_template: bool = True,
    tokenizer: ByteTokenizer | None = None,
    admission: AdmissionConfig | None = None,
    tls: TlsFiles | None = None,
    machines: MachineState | None = None,
    allowed_hosts: Sequence[str] | None = None,
    cors_origins: Sequence[str] = (),
    strict_fields: bool = False,
    page: PageOptions | None = None,
    port: int = 0,
    name: str = MODEL,
    adapters: Sequence[str] = (),
    pictures: PicturePrompts[Any] | None = None,
) -> Generator[RunningServer, None, None]:
    """Serve in a thread until the block ends."""
    tokenizer = tokenizer or ByteTokenizer(has_chat_template=has_chat_template)
    metrics = ServerMetrics(name)
    data_plane = DataPlane(engine, tokenizer, metrics=metrics, admission=admission, adapters=adapters)
    data_plane.pictures = pictures
    app = create_app(
        data_plane,
        metrics,
        model_name=name,
        options=AppOptions(
            api_key=api_key,
            plan=lambda: PLAN,
            machines=machines,
            allowed_hosts=allowed_hosts,
            cors_origins=cors_origins,
            page=page,
        ),
        strict_fields=strict_fields,
    )
    sock = bind("127.0.0.1", port)
    url = url_of(sock, tls)
    started: queue.Queue[asyncio.AbstractEventLoop] = queue.Queue()
    server = AppServer(app, tls=tls, on_started=lambda: started.put(asyncio.get_running_loop()))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]})
    thread.start()
    try:
        loop = started.get(timeout=30)
        yield RunningServer(url=url, engine=engine, data_plane=data_plane, loop=loop, server=server)
    finally:
        server.should_exit = True
        thread.join(30)
    assert engine.closed
