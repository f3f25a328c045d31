"""Every decoder family on a device: `DEVICE=openvino WORKER_PYTHON=PATH python benchmarks/device_families.py`.

A tiny random model of each family that has an ONNX form answers the same prompts on the processor, on the device, as a
pipeline over both, and as a copy on each. What counts is how many greedy tokens are equal; there are no timings.

DEVICE is as `--device` has it; WORKER_PYTHON the environment that reaches it (none: this one).
FAMILIES=llama,phi3 takes some; OPTIONS=KEY=VALUE,... goes to `shoal.LLM`.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from report import command_line, write_result

import shoal
from shoal.errors import ShoalError

sys.path.append(str(Path(__file__).parents[1]))  # the tests know tiny models of all families already
from tests.model.dense_families import DENSE_FAMILIES
from tests.model.tiny_models import EXPERT_FAMILIES, FAMILIES, MORE_FAMILIES, VOCAB_SIZE, make_tiny_model

_PROMPT_LENGTHS = (40, 7, 21)
_OUTPUT_TOKENS = 64
_VARIABLES = ("DEVICE", "WORKER_PYTHON", "FAMILIES", "OPTIONS")
Answers = list[list[int]]


def main() -> None:
    """Compare, print and write the result file; exit status 1 where a token differs."""
    device, python = os.environ.get("DEVICE", "openvino"), os.environ.get("WORKER_PYTHON")
    asked = os.environ.get("FAMILIES")
    families = (
        asked.split(",")
        if asked
        else list(dict.fromkeys((*FAMILIES, *MORE_FAMILIES, *EXPERT_FAMILIES, *DENSE_FAMILIES)))
    )
    options: dict[str, Any] = {"precision": "fp32", "threads": 1}
    options |= dict(item.split("=", 1) for item in os.environ.get("OPTIONS", "").split(",") if item)
    where = {} if python is None else {"worker_python": [python]}
    ways = {
        "alone": {"split": "1", "device": device, **where},
        "pp, processor first": {"split": "pp=2", "device": f"cpu,{device}", **where},
        "dp, one each": {"split": "dp=2", "device": f"cpu,{device}", **where},
    }
    lines = [f"| family | {' | '.join(ways)} |", f"|---|{'---|' * len(ways)}"]
    is_right = True
    for family in families:
        cells = _family(family, ways, options)
        is_right &= all(cell == _all_of(_OUTPUT_TOKENS * len(_PROMPT_LENGTHS)) for cell in cells)
        lines.append(f"| {family} | {' | '.join(cells)} |")
        print(lines[-1], flush=True)
    name = f"device-families-{device.partition(':')[0]}"
    print(write_result(name, lines, command=command_line(__file__, *_VARIABLES)))
    sys.exit(not is_right)


def _family(family: str, ways: Mapping[str, Mapping[str, Any]], options: Mapping[str, Any]) -> list[str]:
    with tempfile.TemporaryDirectory() as name:
        model = make_tiny_model(family, Path(name) / family)
        want = _answers(model, {**options, "split": "1"})
        cells: list[str] = []
        for way in ways.values():
            try:
                cells.append(_agreement(_answers(model, {**options, **way}), want))
            except ShoalError as error:
                cells.append(str(error).splitlines()[0])
        return cells


def _answers(model: Path, options: Mapping[str, Any]) -> Answers:
    prompts: list[list[int]] = [np.random.default_rng(n).integers(3, VOCAB_SIZE, n).tolist() for n in _PROMPT_LENGTHS]
    with shoal.LLM(model, **options) as llm:
        outputs = llm.generate(prompts, max_tokens=_OUTPUT_TOKENS, temperature=0, ignore_eos=True)
        return [list(one.token_ids) for one in outputs]


def _agreement(got: Answers, want: Answers) -> str:
    pairs = [(one, other) for a, b in zip(got, want, strict=True) for one, other in zip(a, b, strict=True)]
    equal = sum(one == other for one, other in pairs)
    return _all_of(equal) if equal == len(pairs) else f"{equal} of {len(pairs)}"


def _all_of(count: int) -> str:
    return f"all {count}"


if __name__ == "__main__":
    main()
