"""`shoal serve` for ONNX graphs: what the command line says, as the options of the server and of each model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import typer

from shoal.chains.definition import Chain, places_of, read_chain
from shoal.chains.functions import require_pool
from shoal.chains.steps import FunctionStep
from shoal.cli.graphs.files import read_arrays
from shoal.cli.graphs.launch_config import graph_config
from shoal.cli.graphs.loading import plan_for_command
from shoal.cli.graphs.model_options import ModelOptions, options_of, parse_model_options, with_options
from shoal.cli.graphs.plan_book import GraphPlanBook
from shoal.cli.graphs.samples import model_name, parse_samples, sample_file
from shoal.cli.graphs.serve import GraphServeOptions, serve_graphs
from shoal.cli.shared import option_values
from shoal.cli.shared.model_kind import is_chain
from shoal.cli.shared.planned import note_left_out
from shoal.cli.shared.server_options import ServerOptions
from shoal.cli.show.graph_plan_output import print_graph_choice
from shoal.inference.model_files import find_models
from shoal.launch.graph.launch import LoadedGraph, launch_graph
from shoal.machines.opening import RAY, SharedMachines
from shoal.model.encoder.folder import EncoderFolder, open_encoder
from shoal.model.graph.file.graph_file import open_graph

_MAX_QUEUE_ROWS = 4096


def load_and_serve_encoder(context: typer.Context, folder: Path, server: ServerOptions, name: str) -> None:
    """Load the encoder of texts in a folder, and serve it until a signal comes; `name`: where the command says none.
    Raises as `load_and_serve`."""
    encoder = open_encoder(folder)
    _serve(context, [str(encoder.graph)], server, context.params["name"] or name, encoder=encoder)


def load_and_serve(context: typer.Context, models: Sequence[str], server: ServerOptions) -> None:
    """Load the graphs of `shoal serve`, and serve them until a signal comes.

    Args:
        context: of the command, for its other options.
        models: ONNX files, folders of them, model repositories, or chains of models.
        server: where to listen.

    Raises:
        ConfigError: an option makes no sense, or as `serve_graphs`.
        ModelLoadError, WorkerLost: as `serve_graphs`.
    """
    chains = [read_chain(model) for model in models if is_chain(model)]
    if any(isinstance(step, FunctionStep) for chain in chains for step in chain.steps):
        require_pool()
    places = places_of([model for model in models if not is_chain(model)], chains)
    _serve(context, places, server, context.params["name"], chains)


def _serve(
    context: typer.Context,
    models: Sequence[str],
    server: ServerOptions,
    name: str | None,
    chains: Sequence[Chain] = (),
    encoder: EncoderFolder | None = None,
) -> None:
    said = context.params
    files = find_models(models, name)
    cluster, shared = option_values.text(said["cluster"]), SharedMachines()
    own, samples = parse_model_options(said["model_config"], files), parse_samples(said["inputs"])
    loader = _Loader(context, name, own, samples, shared)
    serve_options = GraphServeOptions(
        server=server,
        grpc_port=said["grpc_port"],
        name=name,
        max_batch=said["max_batch"],
        batch_delay_s=said["batch_delay"],
        model_options=loader.options_of,
        max_queue_rows=said["max_queue"] or _MAX_QUEUE_ROWS,
        max_request_bytes=option_values.parse_bytes(said["max_request"], "--max-request") or 0,
        allow_load=said["allow_load"],
        strict_fields=said["strict_fields"],
        cluster=RAY if cluster == RAY else None,
    )
    with shared:
        serve_graphs(models, loader.load, serve_options, chains, encoder, server.page(loader.plans), shared)


class _Loader:
    """Plans and launches one model after the other, each with its own options."""

    def __init__(
        self,
        context: typer.Context,
        name: str | None,
        own: Mapping[str, ModelOptions],
        samples: Mapping[str, Path],
        shared: SharedMachines,
    ) -> None:
        """
        Args:
            context: of the command, for what holds of all models.
            name: what the only model is called; None: as its file.
            own: options by the model's name.
            samples: files of real inputs by the model's name.
            shared: opens the machines of a cluster.
        """
        said = context.params
        self._config = graph_config(context, "", in_process=False)
        self._name, self._replans, self._is_quiet = name, said["replan"], said["log_json"]
        self._own, self._samples, self._shared = own, samples, shared
        self.plans = GraphPlanBook()
        """how the models that are loaded were planned"""

    def options_of(self, path: Path) -> ModelOptions:
        """What a model has instead of what holds of all. Raises ConfigError."""
        return options_of(path, self._own, self._name)

    def load(self, path: Path) -> LoadedGraph:
        """Plan a file's graph and start its workers. Raises ShoalError."""
        own = self.options_of(path)
        graph = open_graph(path)
        file = own.inputs or sample_file(path, self._samples)
        sample = None if file is None else read_arrays(file, graph.inputs)
        config = with_options(replace(self._config, model=str(path)), own)
        machines = self._shared.open(config.planning.cluster, path)
        planned = plan_for_command(config, sample, graph, quiet=self._is_quiet, machines=machines)
        if planned.auto is not None and not self._is_quiet:
            print_graph_choice(planned.auto)
        self.plans.note(self._name or model_name(path), planned.auto)
        note_left_out(planned.machines)
        return launch_graph(planned, replans=self._replans)
