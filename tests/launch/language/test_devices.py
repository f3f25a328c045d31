"""Language models whose stages are on devices: OpenVINO on processors, WebGPU in software, beside plain processors."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

import shoal
from shoal.config import DevicesConfig, LaunchConfig
from shoal.core.recovery import config as recovery
from shoal.errors import CapacityError, ConfigError
from shoal.launch.language.by_hand import spec_for_devices
from shoal.launch.language.planning import plan_model
from shoal.planner.split.device_layers import devices_hold
from shoal.planner.split.split_spec import SplitSpec
from shoal.protocol.device_config import DeviceConfig
from tests.model.language_graph.graph_files import GENAI, MERGED, NUM_TOKENS, answers_of_transformers, prompts
from tests.model.tiny_models import make_tiny_gguf, make_tiny_model
from tests.numerics.engines import random_tokens

PROMPTS = [random_tokens(length, seed=length) for length in (40, 7, 21)]
NUM_OUTPUT = 64
HANGING_S = 2.0
"""after which a device that says nothing hangs: no user would want to be so strict"""
GPU = DeviceConfig(provider="cuda")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model("llama", tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def expected(model: Path) -> list[list[int]]:
    with shoal.LLM(model, split="1", precision="fp32") as llm:
        return answers(llm)


def answers(llm: shoal.LLM, max_tokens: int = NUM_OUTPUT) -> list[list[int]]:
    outputs = llm.generate(PROMPTS, max_tokens=max_tokens, temperature=0, ignore_eos=True)
    return [[*output.token_ids] for output in outputs]


@pytest.mark.parametrize(
    ("split", "device"),
    [("1", "openvino"), ("pp=2", "cpu,openvino"), ("pp=3:1", "openvino,cpu"), ("dp=2", "cpu,openvino")],
)
def test_greedy_tokens_are_those_of_a_processor(
    split: str, device: str, model: Path, expected: list[list[int]], openvino_python: str
) -> None:
    options = {"split": split, "device": device, "worker_python": [openvino_python], "precision": "fp32"}
    with shoal.LLM(model, **options) as llm:  # type: ignore[arg-type]
        assert [shard.device and shard.device.provider for shard in llm.plan.shards].count("openvino") == 1
        assert answers(llm) == expected


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_blocks_of_eight_bits_are_multiplied_as_they_are(precision: str, tmp_path: Path, openvino_python: str) -> None:
    """Half floats may choose other tokens where two are nearly as likely: their first are not that near."""
    path = make_tiny_gguf(tmp_path, quant="Q8_0")
    with shoal.LLM(path, split="1", activations="exact") as llm:
        want = answers(llm)
    options = {"device": "openvino", "worker_python": [openvino_python], "device_precision": precision}
    with shoal.LLM(path, split="1", **options) as llm:  # type: ignore[arg-type]
        got = answers(llm)
        assert llm.plan.shards[0].device is not None
        assert llm.plan.shards[0].device.precision == precision
    first = NUM_OUTPUT if precision == "fp32" else 1
    assert [one[:first] for one in got] == [one[:first] for one in want]


def test_a_gpu_in_software_has_no_half_floats_and_says_so(model: Path, webgpu_python: str) -> None:
    with pytest.raises(ConfigError, match=r"webgpu:0 does not compute in fp16: .*leave out --device-precision"):
        shoal.LLM(model, split="1", device="webgpu", worker_python=[webgpu_python], device_precision="fp16")


def test_a_gpu_in_software_has_the_last_layers(model: Path, expected: list[list[int]], webgpu_python: str) -> None:
    options = {"split": "pp=3:1", "device": "cpu,webgpu", "worker_python": [webgpu_python], "precision": "fp32"}
    with shoal.LLM(model, **options) as llm:  # type: ignore[arg-type]
        assert answers(llm, max_tokens=3) == [tokens[:3] for tokens in expected]
        alone = llm.generate(PROMPTS[1], max_tokens=8, temperature=0, ignore_eos=True)
        assert [*alone.token_ids] == expected[1][:8], "rows that are alone attend by another operator"


@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGSTOP])
def test_an_answer_goes_on_when_the_devices_worker_dies_or_hangs(
    stop: signal.Signals,
    model: Path,
    expected: list[list[int]],
    openvino_python: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(recovery, "_DEVICE_STEP_S", HANGING_S)
    options = {"split": "pp=2", "device": "cpu,openvino", "worker_python": [openvino_python], "precision": "fp32"}
    with shoal.LLM(model, **options) as llm:  # type: ignore[arg-type]
        whole = llm.generate(PROMPTS[0], max_tokens=NUM_OUTPUT, temperature=0, ignore_eos=True).text
        pieces: list[str] = []
        for piece in llm.stream(PROMPTS[0], max_tokens=NUM_OUTPUT, temperature=0, ignore_eos=True):
            if not pieces:
                os.kill(worker_of(openvino_python), stop)
            pieces.append(piece)
        assert "".join(pieces) == whole


def worker_of(python: str) -> int:
    """The process id of the only worker that another Python runs."""
    living = [one for one in psutil.Process().children() if one.status() != psutil.STATUS_ZOMBIE]
    (worker,) = [one for one in living if one.cmdline()[:1] == [python]]
    return worker.pid


def test_too_little_memory_names_the_bytes_and_the_layers(model: Path, openvino_python: str) -> None:
    options = {"split": "1", "device": "openvino", "worker_python": [openvino_python], "precision": "fp32"}
    with pytest.raises(CapacityError, match=r"may take 524,288 bytes, but layers 0 to 3 take [0-9,]+; 3 of"):
        shoal.LLM(model, **options, device_memory="0.5M")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"split": "auto", "names": ("auto", "cuda")}, "--device auto cannot be combined"),
        ({"split": "pp=2", "names": ("auto",)}, "--device auto needs --split auto"),
        ({"split": "pp=2", "names": ("cuda", "cpu", "cpu")}, "names 3 devices for 2 workers"),
        ({"split": "tp=2", "names": ("cuda",)}, "can only compute whole stages: split over devices with pp and dp"),
        ({"split": "1", "names": ("cpu",), "precision": "fp16"}, "mean nothing for cpu"),
        ({"split": "1", "names": ("cuda",), "precision": "half"}, "--device-precision is 'half'"),
        ({"split": "1", "names": ("cuda",)}, "has no CUDAExecutionProvider"),
    ],
)
def test_what_cannot_be_is_refused(settings: dict[str, object], complaint: str, model: Path) -> None:
    with pytest.raises(ConfigError, match=complaint):
        shoal.LLM(  # type: ignore[call-arg]
            model,
            split=settings["split"],  # type: ignore[arg-type]
            device=",".join(settings["names"]),  # type: ignore[arg-type]
            device_precision=settings.get("precision", "fp32"),  # type: ignore[arg-type]
        )


def test_one_device_without_a_split_has_the_whole_model() -> None:
    config = LaunchConfig(model="m", split="auto")
    assert spec_for_devices(config, None, (GPU,)) == SplitSpec()
    assert spec_for_devices(config, None, (None,)) is None
    assert spec_for_devices(config, None, ()) is None
    stored = LaunchConfig(model="m", plan_file="plan.yaml", devices=DevicesConfig(names=("cuda",)))
    with pytest.raises(ConfigError, match=r"plan\.yaml already names the devices"):
        spec_for_devices(stored, None, (GPU,))


def test_plans_hold_devices(model: Path) -> None:
    devices = DevicesConfig(names=("cpu", "cuda:1"), options=("a=b",), pythons=("/p",))
    plan = plan_model(LaunchConfig(model=str(model), split="pp=2", devices=devices)).plan
    found = [(shard.device and (shard.device.name, shard.device.options), shard.python) for shard in plan.shards]
    assert found == [(None, None), (("cuda:1", (("a", "b"),)), "/p")]


@pytest.mark.parametrize(("folder", "checkpoint"), [(GENAI, "qwen2"), (MERGED, "llama")])
def test_exported_graphs_with_caches_are_computed_there_too(
    folder: Path, checkpoint: str, openvino_python: str
) -> None:
    with shoal.LLM(folder, device="openvino", worker_python=[openvino_python], threads=1) as llm:
        assert llm.plan.shards[0].device is not None
        found = llm.generate(prompts(), max_tokens=NUM_TOKENS, temperature=0, ignore_eos=True)
    assert [list(one.token_ids) for one in found] == answers_of_transformers(checkpoint)


def test_a_device_gets_the_layers_that_its_memory_holds(model: Path) -> None:
    devices = DevicesConfig(names=("cuda", "cpu"), memory_bytes=300_000)
    config = LaunchConfig(model=str(model), split="pp=2", precision="fp32", kv_memory_bytes=200_000, devices=devices)
    planned = plan_model(config)
    (replica,) = planned.plan.replicas
    assert [stage.num_layers for stage in replica.stages] == [1, 3]
    blocks = planned.model.blocks("fp32", exact_activations=True)
    moves = [devices_hold(replica, layers, blocks, block_size=planned.plan.block_size) for layers in ([1, 3], [2, 2])]
    assert moves == [True, False], "nor does it get more while it runs"
    said = plan_model(replace(config, split="pp=3:1")).plan.replicas[0]
    assert [stage.num_layers for stage in said.stages] == [3, 1], "what the user says stays"
