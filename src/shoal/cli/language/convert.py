"""`shoal convert`: a language model as a GGUF file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from shoal.cli.shared import options
from shoal.cli.shared.checked_command import examples

EXAMPLE = examples("shoal convert hf:org/model-GPTQ model.gguf")


def convert(
    model: options.LanguageModel,
    out: Annotated[Path, typer.Argument(help="The GGUF file to write.", dir_okay=False)],
    precision: Annotated[
        str,
        typer.Option(
            help="auto keeps the value of every weight, in the narrowest GGUF type that holds it; fp32, fp16, "
            "bf16, int8 (Q8_0) and int4 (Q4_1) narrow what is wider."
        ),
    ] = "auto",
    merge_lora: options.MergeLora = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")] = False,
    json: options.Json = False,
) -> None:
    """Write a model as a GGUF file with its tokenizer and chat template, for families that llama.cpp supports."""
    from shoal.cli.show.output import note, print_json, progress_bar
    from shoal.errors import ConfigError
    from shoal.model.adapter.files import find_adapter
    from shoal.model.conversion import convert_model
    from shoal.model.formats.gguf.writing.encode import parse_gguf_precision
    from shoal.model.formats.model_path import resolve_model

    if out.suffix != ".gguf":
        raise ConfigError(f"{out} must end in .gguf")
    path = resolve_model(model)
    with progress_bar("writing") as update:
        kinds = convert_model(
            path,
            out,
            parse_gguf_precision(precision),
            name=path.stem if path.is_file() else path.name,
            adapters=() if merge_lora is None else [find_adapter("merged", merge_lora, is_merged=True)],
            overwrite=force,
            progress=update,
        )
    num_bytes = out.stat().st_size
    counts = {kind.name: count for kind, count in kinds.most_common()}
    if json:
        print_json({"model": model, "out": str(out), "bytes": num_bytes, "tensors": counts})
    else:
        held = ", ".join(f"{count} tensors in {kind}" for kind, count in counts.items())
        note(f"wrote {out}: {num_bytes / 1e6:.1f} MB, {held}")
