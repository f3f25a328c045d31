"""Options that several commands share, each written once."""

from __future__ import annotations

from typing import Annotated

import typer

Model = Annotated[
    str,
    typer.Argument(help="A .gguf file, a Hugging Face directory, hf:org/name, or pkg:NAME (a model inside a package)."),
]
Split = Annotated[
    str, typer.Option(help="How to split: 1, pp=2, pp=10:20 (layers per stage), dp=2, dp=2,pp=2.", metavar="SPEC")
]
Precision = Annotated[
    str, typer.Option(help="auto keeps a quantized file's own width; fp32, int8 or int4.", metavar="P")
]
Threads = Annotated[
    int | None, typer.Option(min=1, help="Compute threads per worker. Default: the cores shared evenly.")
]
MaxSeqs = Annotated[int, typer.Option(min=1, help="Sequences of one replica that may run at once.")]
KvMemory = Annotated[
    str | None, typer.Option(help="KV cache of all replicas together, such as 512M or 4G.", metavar="BYTES")
]
MaxContext = Annotated[
    int | None, typer.Option(min=2, help="Longest sequence in tokens, prompt and output. Default: the model's own.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else on stdout.")]

_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


def parse_bytes(text: str | None) -> int | None:
    """`512M` as a number of bytes; K, M, G, T are powers of 1024. Raises typer.BadParameter."""
    if text is None:
        return None
    number = text.lower().removesuffix("b").removesuffix("i")
    unit = number[-1:] if number[-1:].isalpha() else ""
    try:
        size = int(float(number.removesuffix(unit)) * _UNITS[unit])
    except (KeyError, ValueError, OverflowError):
        raise typer.BadParameter(f"{text!r} is not a size such as 512M or 4G", param_hint="--kv-memory") from None
    if size <= 0:
        raise typer.BadParameter("must be more than 0", param_hint="--kv-memory")
    return size
