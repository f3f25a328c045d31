"""Models with recurrent layers beside llama.cpp, as ratios within one run: the same GGUF file, prompts and streams.

python benchmarks/recurrent.py --llama-cpp DIR

Random weights in the shapes of LFM2, Qwen3-Next and Granite 4 hybrid, of some 300 million weights in Q4_0: prefill of
512 tokens, decode of one stream, and eight streams over HTTP. Without llama.cpp, Shoal alone is measured.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from engines.found import add_options, command_line, find_peers
from engines.llama_cpp import LlamaCpp
from engines.reading import Readings
from engines.shoal import Shoal
from engines.streams import run_streams, stream_label
from recurrent_models import SHAPES, recurrent_model
from report import write_result
from rows.comparison import Comparison, Contender, Goal, compare
from rows.setup import NUM_THREADS, Model, Setup

_PROMPT_TOKENS, _OUTPUT_TOKENS, _STREAMS = 512, 64, 8
_PREFILL, _DECODE = f"prefill of {_PROMPT_TOKENS} tokens", "decode of 1 stream"
_REFERENCE = "llama.cpp"


def main() -> None:
    """Measure, print and write the result file."""
    parser = argparse.ArgumentParser(description="Models with recurrent layers beside llama.cpp.")
    add_options(parser)
    parser.add_argument("--only", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--rounds", type=int, default=3, help="times that everything is measured (default: 3)")
    parser.add_argument("--no-file", action="store_true", help="write no result file")
    given = parser.parse_args()
    found = find_peers(given)
    setup = Setup(found=found, small="", sizes=(), streams=(_STREAMS,), waves=2)
    lines: list[str] = []
    for name in given.only:
        model = Model(name=f"random {name}", what=str(recurrent_model(name)))
        for comparison in _comparisons(setup, model):
            added = compare(comparison, given.rounds).lines()
            print("\n".join(added), flush=True)
            lines += added
    if not given.no_file:
        print(write_result("recurrent", lines, command=command_line(__file__)))


def _comparisons(setup: Setup, model: Model) -> Iterator[Comparison]:
    load = setup.load(_STREAMS)

    def own_lone(shoal: Shoal) -> Readings:
        return {
            _PREFILL: shoal.prefill(_PROMPT_TOKENS, split="1", threads=NUM_THREADS),
            _DECODE: shoal.decode(_OUTPUT_TOKENS, split="1", threads=NUM_THREADS),
        }

    def other_lone(llama: LlamaCpp) -> Readings:
        return {
            _PREFILL: llama.bench(prompt_tokens=_PROMPT_TOKENS, output_tokens=0, threads=NUM_THREADS),
            _DECODE: llama.bench(prompt_tokens=0, output_tokens=_OUTPUT_TOKENS, threads=NUM_THREADS),
        }

    yield Comparison(
        title=f"{model.name}, one stream, {NUM_THREADS} threads",
        unit="tokens/s",
        contenders=[model.shoal("Shoal", own_lone), *_llama_cpp(setup, model.file, other_lone)],
        goals=[Goal(reference=_REFERENCE, load=key, at_least=1.1) for key in (_PREFILL, _DECODE)],
        flops_per_token=model.flops_per_token(),
    )
    slots = {"threads": NUM_THREADS, "slots": _STREAMS}
    yield Comparison(
        title=f"{model.name}, prompts of 128 tokens and 64 output tokens over HTTP, {NUM_THREADS} threads",
        unit="output tokens/s",
        contenders=[
            model.shoal("Shoal", lambda shoal: run_streams(shoal.serving(split="1", **slots), [load])),
            *_llama_cpp(setup, model.file, lambda llama: run_streams(llama.serving(**slots), [load])),
        ],
        goals=[Goal(reference=_REFERENCE, load=stream_label(_STREAMS), at_least=1.5)],
        flops_per_token=model.flops_per_token(),
    )


def _llama_cpp(setup: Setup, file: Path, measure) -> list[Contender]:
    """The contender on the file as it is, where it is installed."""
    if setup.found.llama_cpp is None:
        print("llama.cpp is not installed: Shoal alone is measured", file=sys.stderr)
        return []
    return [setup.llama_cpp_as_is(_REFERENCE, file, measure)]


if __name__ == "__main__":
    main()
