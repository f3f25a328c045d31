"""What a plan says that a worker takes, beside what a process really takes: for every form of weights.

A helper process forks once for each case, so that no case has what another has freed.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from shoal.config import LaunchConfig
from shoal.core.plan.language import held_bytes
from shoal.launch.language.planning import plan_model
from shoal.model.decoder.blocks import decoder_blocks
from shoal.model.decoder.process_bytes import PROCESS_BYTES, StageWork, process_parts
from shoal.model.decoder.stage import Stage
from shoal.model.file_states import model_states
from shoal.model.formats.huggingface.tensor_map import ITEM_BYTES
from shoal.model.formats.open_weights import open_weights
from shoal.model.packed.kept_weights import KeptWeights
from shoal.planner.memory.fit import tied_bytes
from shoal.planner.memory.plan_memory import needed_memory
from shoal.protocol.language_messages import SampleRow, Sampling, Step, StepId
from shoal.protocol.stage_config import StageConfig
from shoal.protocol.worker_messages import Generation
from tests.model.tiny_models import VOCAB_SIZE, write_gguf

HIDDEN, COLUMNS, KV_WIDTH, NUM_LAYERS = 1024, 4096, 256, 3
MIB = 1 << 20
TOLERANCE = 0.05
STEP_TOLERANCE = 0.10
"""What a step works on depends on ONNX Runtime's kernels, which depend on the processor."""
CASES = [
    *({"kind": kind} for kind in ("F16", "Q8_0", "Q6_K", "Q4_0", "Q4_K")),
    {"kind": "Q4_1", "precision": "int8"},
    {"kind": "Q4_K", "mlp_kind": "Q6_K"},
    {"kind": "Q4_0", "step_rows": 512},
    {"kind": "Q8_0", "exact_activations": True},
    {"kind": "Q4_K", "mlp_kind": "Q6_K", "exact_activations": True},
    *({"kind": kind, "format": "safetensors"} for kind in ("F32", "BF16")),
    {"kind": "F32", "format": "safetensors", "precision": "int8"},
]
LARGE_VOCABULARY = 16384
"""Of the safetensors: 64 MiB, so that it is noticed whether the embedding is a worker's own or the file's."""


def main(folder: Path) -> None:
    """Print a line for each case: what was predicted and what was taken."""
    np.seterr(all="ignore")
    for case in CASES:
        is_folder = case.get("format") == "safetensors"
        path = folder / ("model" if is_folder else "model.gguf")
        write = write_safetensors if is_folder else write_model
        in_a_fork(
            lambda case=case, path=path, write=write: write(path, case["kind"], case.get("mlp_kind", case["kind"]))
        )
        print(in_a_fork(lambda case=case, path=path: measure(path, case)), flush=True)
    print(json.dumps(measure_pipeline(folder)), flush=True)


def in_a_fork(run: Callable[[], dict[str, float] | None]) -> str:
    """What it returns, as JSON. This process takes and frees nothing, so that the next one begins as this one did."""
    reader, writer = os.pipe()
    if (child := os.fork()) == 0:
        os.write(writer, json.dumps(run()).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as answer:
        text = answer.read()
    os.waitpid(child, 0)
    return text


def write_model(path: Path, kind: str, mlp_kind: str) -> None:
    """Random bytes are weights as good as any: nobody looks at the results."""
    rng = np.random.default_rng(0)

    def matrix(rows: int, columns: int, of: str) -> np.ndarray:
        block_weights, block_bytes = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[of]]
        return rng.integers(0, 256, (rows, columns // block_weights * block_bytes), np.uint8)

    shapes = {
        "attn_q": (HIDDEN, HIDDEN),
        "attn_k": (KV_WIDTH, HIDDEN),
        "attn_v": (KV_WIDTH, HIDDEN),
        "attn_output": (HIDDEN, HIDDEN),
    }
    mlp_shapes = {"ffn_gate": (COLUMNS, HIDDEN), "ffn_up": (COLUMNS, HIDDEN), "ffn_down": (HIDDEN, COLUMNS)}
    norm = np.ones(HIDDEN, np.float32)
    tensors = {"token_embd.weight": matrix(VOCAB_SIZE, HIDDEN, "Q8_0"), "output_norm.weight": norm}
    kinds = {"token_embd.weight": "Q8_0"}
    for layer in range(NUM_LAYERS):
        tensors |= {f"blk.{layer}.{name}.weight": norm for name in ("attn_norm", "ffn_norm")}
        for of, some in ((kind, shapes), (mlp_kind, mlp_shapes)):
            for name, shape in some.items():
                tensors[f"blk.{layer}.{name}.weight"] = matrix(*shape, of)
                kinds[f"blk.{layer}.{name}.weight"] = of
    sizes = {
        "embedding_length": HIDDEN,
        "feed_forward_length": COLUMNS,
        "attention.head_count": 16,
        "attention.head_count_kv": 4,
        "rope.dimension_count": 64,
    }
    metadata = {f"llama.{key}": value for key, value in sizes.items()}
    write_gguf(path, "llama", tensors, quant=kinds, metadata=metadata)


def write_safetensors(folder: Path, kind: str, _: str) -> None:
    """A Llama of zeros whose head is its embedding. What zeros are packed into is as large as for any other numbers."""
    kv_rows, norm = (KV_WIDTH, HIDDEN), (HIDDEN,)
    shapes: dict[str, tuple[int, ...]] = {"embed_tokens": (LARGE_VOCABULARY, HIDDEN), "norm": norm}
    for layer in range(NUM_LAYERS):
        shapes |= {f"layers.{layer}.{name}": norm for name in ("input_layernorm", "post_attention_layernorm")}
        shapes |= {
            f"layers.{layer}.self_attn.{name}_proj": rows
            for name, rows in {"q": (HIDDEN, HIDDEN), "k": kv_rows, "v": kv_rows, "o": (HIDDEN, HIDDEN)}.items()
        }
        shapes |= {f"layers.{layer}.mlp.{name}_proj": (COLUMNS, HIDDEN) for name in ("gate", "up")}
        shapes[f"layers.{layer}.mlp.down_proj"] = (HIDDEN, COLUMNS)
    header, end = dict[str, Any](), 0
    for name, shape in shapes.items():
        start, end = end, end + prod(shape) * ITEM_BYTES[kind]
        header[f"model.{name}.weight"] = {"dtype": kind, "shape": shape, "data_offsets": (start, end)}
    folder.mkdir(exist_ok=True)
    text = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    settings = {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": LARGE_VOCABULARY,
        "hidden_size": HIDDEN,
        "intermediate_size": COLUMNS,
        "num_hidden_layers": NUM_LAYERS,
        "num_attention_heads": 16,
        "num_key_value_heads": 4,
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": True,
    }
    (folder / "config.json").write_text(json.dumps(settings))


def measure(path: Path, case: dict[str, Any]) -> dict[str, float]:
    """Load all of a model in this process, and run a step where the case says so."""
    base = anonymous_bytes()
    source, precision, rows = open_weights(path), case.get("precision", "auto"), case.get("step_rows", 0)
    max_step_tokens = max(2, rows)
    stage = Stage(
        source,
        StageConfig(
            first_layer=0,
            last_layer=NUM_LAYERS,
            precision=precision,
            threads=1,
            num_blocks=max(1, rows // 16),
            block_size=16,
            max_step_tokens=max_step_tokens,
            max_context=512,
            exact_activations=case.get("exact_activations", False),
        ),
    )
    blocks = decoder_blocks(source, precision, exact_activations=case.get("exact_activations", False))
    predicted = held_bytes(blocks) + rows * sum(block.kv_bytes_per_token for block in blocks)
    work = StageWork(
        first_layer=0,
        last_layer=NUM_LAYERS,
        num_rows=max_step_tokens,
        num_outputs=1,
        num_positions=min(512, 16 * max(1, rows // 16)),
        exact_activations=case.get("exact_activations", False),
    )
    predicted += process_parts(source.config, work).total
    if rows:
        stage.process(prompt_step(rows))
    weights = held_bytes(blocks)
    taken = anonymous_bytes() - base + PROCESS_BYTES
    return {"predicted": predicted, "taken": taken, "weights": weights, "counted": stage.weight_bytes}


def measure_pipeline(folder: Path) -> dict[str, float]:
    """Load a model whose head is its embedding as two stages in two processes, with kept weights that both map."""
    path = folder / "tied"
    write_safetensors(path, "F32", "")
    planned = plan_model(LaunchConfig(model=str(path), precision="int8", split="pp=2", max_context=512, max_seqs=1))
    tied = tied_bytes(planned.model.blocks("int8"))
    weights = needed_memory(planned.plan, shares_weights=True, tied_bytes=tied).weight_bytes
    cuts = [(stage.first_layer, stage.last_layer) for stage in planned.plan.replicas[0].stages]
    in_processes_at_once([partial(load_stage, path, folder, (0, NUM_LAYERS))])  # from now on all weights are kept
    taken = in_processes_at_once([partial(load_stage, path, folder, cut) for cut in cuts])
    assert len(taken) == len(cuts)
    processes = len(cuts) * PROCESS_BYTES
    return {"predicted": weights + processes, "taken": sum(taken) + processes, "weights": weights, "tied": tied}


def load_stage(path: Path, folder: Path, cut: tuple[int, int]) -> Stage:
    """A stage of a model in int8, as a worker loads it."""
    source = open_weights(path)
    kept = KeptWeights(folder / "kept", lambda: model_states(path), "int8")
    config = StageConfig(
        first_layer=cut[0],
        last_layer=cut[1],
        precision="int8",
        threads=1,
        num_blocks=1,
        block_size=16,
        max_step_tokens=2,
        max_context=512,
    )
    return Stage(source, config, kept=kept)


def in_processes_at_once(loads: Sequence[Callable[[], Stage]]) -> list[int]:
    """Bytes that each process takes for what it loads while all have loaded; pages of files that several map are
    divided among them."""
    context = multiprocessing.get_context("fork")
    barrier, answers = context.Barrier(len(loads), timeout=60.0), context.SimpleQueue()

    def own_bytes() -> int:
        return anonymous_bytes() + resident_bytes("Pss_File")

    def run(load: Callable[[], Stage]) -> None:
        barrier.wait()
        base = own_bytes()
        barrier.wait()
        stage = load()
        barrier.wait()
        answers.put(own_bytes() - base)
        barrier.wait()
        del stage

    processes = [context.Process(target=run, args=(load,)) for load in loads]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    return [answers.get() for process in processes if process.exitcode == 0]


def prompt_step(num_rows: int) -> Step:
    def packed(values: Any) -> bytes:
        return np.array(list(values), "<i4").tobytes()

    return Step(
        step_id=StepId(0),
        generation=Generation(0),
        token_ids=packed([5] * num_rows),
        positions=packed(range(num_rows)),
        query_starts=packed([0, num_rows]),
        context_lens=packed([num_rows]),
        block_tables=packed(range(num_rows // 16)),
        samples=(SampleRow(row=0, token_index=0, sampling=Sampling(temperature=0.0), target=1),),
    )


def anonymous_bytes() -> int:
    """What cannot be read again from a file."""
    return resident_bytes("Anonymous")


def resident_bytes(kind: str) -> int:
    """Bytes of this process. Source: proc(5), smaps_rollup."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith(f"{kind}:"))
    return int(line.split()[1]) << 10


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, float]]:
    command = [sys.executable, "-m", __name__, str(tmp_path_factory.mktemp("memory"))]
    helper = subprocess.run(command, check=True, capture_output=True, text=True, cwd=Path(__file__).parents[3])
    return [json.loads(line) for line in helper.stdout.splitlines()]


@pytest.mark.parametrize("index", range(len(CASES)), ids=["-".join(map(str, case.values())) for case in CASES])
def test_a_process_takes_what_was_predicted(index: int, measured: list[dict[str, float]]) -> None:
    figures = measured[index]
    tolerance = STEP_TOLERANCE if "step_rows" in CASES[index] else TOLERANCE
    assert figures["taken"] == pytest.approx(figures["predicted"], rel=tolerance), {
        name: round(num_bytes / MIB, 1) for name, num_bytes in figures.items()
    }
    assert figures["counted"] == pytest.approx(figures["weights"], rel=TOLERANCE)


def test_a_pipeline_maps_an_embedding_that_is_its_head_once(measured: list[dict[str, float]]) -> None:
    figures = measured[-1]
    assert figures["taken"] == pytest.approx(figures["predicted"], rel=TOLERANCE)
    assert figures["tied"] > 2 * TOLERANCE * figures["predicted"], "counted twice, it would be noticed"


def test_a_worker_takes_what_is_known_before_it_loads() -> None:
    """Source of PROCESS_BYTES. Other versions of what is imported take a little more or less."""
    native = "shoal.model.decoder.native.native_layers"
    imports = f"shoal.worker.language.decoder_runner, {native}, shoal.model.formats.gguf.file"
    program = f"import {imports}; print(open('/proc/self/smaps_rollup').read())"
    output = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
    taken = int(output.partition("Anonymous:")[2].split()[0]) << 10
    assert taken == pytest.approx(PROCESS_BYTES, rel=0.25)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
