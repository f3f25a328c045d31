"""`shoal serve` for ONNX graphs: the Open Inference Protocol over any number of models."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from shoal.api.chain_language import LanguageModels
from shoal.chains.definition import Chain
from shoal.cli.graphs.model_options import ModelOptions
from shoal.cli.shared.log import announce
from shoal.cli.shared.server_options import ServerOptions
from shoal.cli.show.output import describe_drain
from shoal.core.batching.config import BatchingConfig
from shoal.embeddings.graph_encoder import GraphEncoder
from shoal.errors import ConfigError, ModelLoadError, ShoalError, WorkerLost
from shoal.inference.model_files import ModelFile, find_models, named_models
from shoal.inference.repository import ModelRepository
from shoal.inference.seams import ServableGraph
from shoal.inference.served_chain import ServedChain
from shoal.machines.opening import SharedMachines
from shoal.model.encoder.folder import EncoderFolder
from shoal.server.http.draining import Drain
from shoal.server.http.serve import bind, serve_app
from shoal.server.oip.app import ServedEncoder, create_graph_app, load_rpc_server
from shoal.server.oip.datatypes import loads_named
from shoal.server.web.routes import PageOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphServeOptions:
    """How to serve."""

    server: ServerOptions
    grpc_port: int | None
    """None: no gRPC; 0 picks a free one"""
    name: str | None
    """what to call the only model; None: as its file"""
    max_batch: int
    """rows that are computed together at most, >= 1"""
    batch_delay_s: float
    """how long a batch may wait to grow while its replica works, >= 0"""
    model_options: Callable[[Path], ModelOptions] = lambda path: ModelOptions()
    """what a model has instead of these; raises ConfigError"""
    max_queue_rows: int
    """rows of a model that may wait, >= 1"""
    max_request_bytes: int
    """larger requests are refused before they are read"""
    allow_load: bool
    """whether clients may load and unload models without a key"""
    strict_fields: bool = False
    """whether an encoder of texts refuses fields of bodies that nobody knows"""
    cluster: str | None = None
    """whose machines the language models of chains run on, too; None: each as its step says"""


def serve_graphs(
    models: Sequence[str],
    load: Callable[[Path], ServableGraph],
    options: GraphServeOptions,
    chains: Sequence[Chain] = (),
    encoder: EncoderFolder | None = None,
    page: PageOptions | None = None,
    shared: SharedMachines | None = None,
) -> None:
    """Load every model and serve them until a signal comes.

    Args:
        models: ONNX files, folders of them, or model repositories as Triton has them.
        load: loads one file and starts its workers; called here, and later whenever a client has a model loaded.
        options: where and how.
        chains: of these models.
        encoder: what the only model's graph is of; None: of something else than texts.
        page: the page at `/`; None: there is none.
        shared: opens the machines of a cluster for language models of chains; None: they are opened for each.

    Raises:
        ConfigError: an address cannot be had, or the models' names collide.
        MissingExtra: gRPC is asked for and grpcio is not installed.
        ModelLoadError: none of several models can be loaded; of a lone one, what its loading raises.
        WorkerLost: the workers of the last model in service are gone for good, or the head of the cluster that they are
            on is.
    """

    def batching(file: ModelFile) -> BatchingConfig:
        own = options.model_options(file.path)
        return BatchingConfig(
            max_batch=own.max_batch or options.max_batch,
            batch_delay_s=options.batch_delay_s if own.batch_delay is None else own.batch_delay,
            max_queue_rows=options.max_queue_rows,
        )

    if options.grpc_port is not None:
        load_rpc_server()  # before models are loaded: what is missing is said at once
    encoders = named_models({name: path for chain in chains for name, path in chain.encoders.items()})

    def find() -> dict[str, ModelFile]:
        named = find_models(models, options.name)
        if taken := next((name for name in encoders if name in named), None):
            raise ConfigError(f"the encoder {taken!r} of a chain has the name of a model: rename its folder")
        return named | encoders

    found = find()
    if shared is not None:
        shared.expect([*(file.path for file in found.values()), *(place for one in chains for place in one.own_models)])
    if taken := next((chain.name for chain in chains if chain.name in found), None):
        raise ConfigError(f"the chain {taken!r} has the name of one of the models: give it another `name`")
    repository = ModelRepository(find, loads_named(load), batching)
    with ExitStack() as resources:
        sock = resources.enter_context(bind(options.server.host, options.server.port))
        grpc_address = None if options.grpc_port is None else _free_address(options.server.host, options.grpc_port)
        resources.callback(repository.close_now)
        _load_all(repository, sorted(found))
        shared = shared or resources.enter_context(SharedMachines())
        language = resources.enter_context(LanguageModels(chains, shared, options.cluster))
        served = [
            ServedChain(chain, repository, language.of(chain), language.transcribers_of(chain)) for chain in chains
        ]
        app = create_graph_app(
            repository,
            chains=served,
            api_key=options.server.api_key,
            max_request_bytes=options.max_request_bytes,
            grpc_address=grpc_address,
            tls=options.server.tls,
            allow_load=options.allow_load,
            allowed_hosts=options.server.allowed_hosts,
            cors_origins=options.server.cors_origins,
            encoder=None if encoder is None else _served_encoder(encoder, repository, options),
            page=page,
        )
        if options.server.tracing is not None:
            options.server.tracing.trace_calls(app)
        drain: Drain = app.state.drain
        repository.on_headless = drain.leave
        names = ", ".join([*(model.file.name for model in repository.models), *(chain.name for chain in chains)])
        serve_app(
            app,
            sock,
            tls=options.server.tls,
            on_ready=lambda url: announce(_started(names, url, grpc_address)),
            drain_timeout_s=options.server.drain_timeout_s,
            on_drain=lambda num_open: announce(describe_drain(num_open, options.server.drain_timeout_s)),
        )
    if drain.reason is not None:
        raise WorkerLost(drain.reason)


def _served_encoder(folder: EncoderFolder, repository: ModelRepository, options: GraphServeOptions) -> ServedEncoder:
    """Raises ModelLoadError: the graph is none of an encoder."""
    (model,) = repository.models
    name, plan = model.file.name, model.plan
    encoder = GraphEncoder(folder, lambda: repository.get(name), plan.inputs, plan.outputs)
    return ServedEncoder(encoder=encoder, model_name=name, strict_fields=options.strict_fields)


def _load_all(repository: ModelRepository, names: Sequence[str]) -> None:
    """Load what can be loaded; the rest is listed with its reason. Raises where nothing is left to serve."""
    errors: list[ShoalError] = []
    for name in names:
        try:
            repository.load_now(name)
        except ShoalError as error:
            if len(names) == 1:
                raise
            errors.append(error)
            announce(f"{name} is not served: {error}")
    if names and len(errors) == len(names):
        raise ModelLoadError(f"none of the {len(names)} models can be served; the lines above say why")


def _free_address(host: str, port: int) -> tuple[str, int]:
    """An address that gRPC, which takes no socket, can have right now. Raises ConfigError."""
    with bind(host, port) as sock:
        return host, sock.getsockname()[1]


def _started(names: str, url: str, grpc_address: tuple[str, int] | None) -> str:
    """What a user wants to read when requests can come."""
    grpc_part = "" if grpc_address is None else f", gRPC at {grpc_address[0]}:{grpc_address[1]}"
    return f"serving {names} at {url}/v2{grpc_part}"
