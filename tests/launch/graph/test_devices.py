"""Graphs whose workers compute on devices: WebGPU in software and OpenVINO, against plain ONNX Runtime."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest
from onnx import helper

import shoal
from shoal.api.graphs import open_runner
from shoal.config import DevicesConfig, GraphLaunchConfig
from shoal.core.recovery import config as recovery
from shoal.errors import CapacityError, ConfigError, ModelLoadError
from shoal.executor.pipeline_executor import PipelineExecutor
from shoal.launch.graph.launch import LoadedGraph, launch_graph
from shoal.launch.graph.planning import plan_graph
from shoal.offline.pull import Chunk
from tests.executor.graphs import floats, save_graph, skip_chain
from tests.plain_runtime import plain_session

NUM_CHUNKS = 12
HANGING_S = 2.0
"""after which a device that says nothing hangs: no user would want to be so strict"""
TOLERANCE = 1e-3


@pytest.fixture
def chain(tmp_path: Path) -> Path:
    return skip_chain(tmp_path / "chain.onnx")


def launch(path: Path, split: str, *names: str, pythons: tuple[str, ...], **more: object) -> LoadedGraph:
    devices = DevicesConfig(names=names, pythons=pythons, **more)  # type: ignore[arg-type]
    return launch_graph(plan_graph(GraphLaunchConfig(model=str(path), split=split, threads=1, devices=devices)))


def rows(index: int) -> np.ndarray:
    return np.random.default_rng(index).standard_normal((3, 8), np.float32)


def check(loaded: LoadedGraph, path: Path, *, stop: signal.Signals | None = None, worker: int = 0) -> None:
    """Every chunk is computed once and right, whatever becomes of a worker of the last replica meanwhile."""
    outputs: dict[int, np.ndarray] = {}
    chunks = (Chunk(index=index, inputs={"x": rows(index)}) for index in range(NUM_CHUNKS))
    with open_runner(loaded) as runner:
        for result in runner.run(chunks, copy_last=True):
            assert (result.error, result.index in outputs) == (None, False)
            outputs[result.index] = np.array(result.outputs["y"])
            if stop is not None and len(outputs) == NUM_CHUNKS // 3:
                executor = loaded.executors[-1]
                assert isinstance(executor, PipelineExecutor)
                os.kill(executor.worker_pids()[worker], stop)
    whole = plain_session(path)
    for index in range(NUM_CHUNKS):
        expected = whole.run(["y"], {"x": rows(index)})[0]
        np.testing.assert_allclose(outputs[index], expected, atol=TOLERANCE * np.abs(expected).max())


@pytest.mark.parametrize(
    ("split", "names"),
    [
        ("1", ("openvino",)),
        ("pp=2", ("cpu", "openvino:0")),
        ("pp=2", ("openvino", "cpu")),
        ("dp=2", ("cpu", "openvino")),
        ("tp=2", ("openvino",)),
    ],
)
def test_a_device_computes_what_the_processor_does(
    split: str, names: tuple[str, ...], chain: Path, openvino_python: str
) -> None:
    with launch(chain, split, *names, pythons=(openvino_python,)) as loaded:
        assert [shard.device and shard.device.provider for shard in loaded.plan.shards].count("openvino") >= 1
        check(loaded, chain)


@pytest.mark.parametrize(("split", "names"), [("pp=2", ("cpu", "webgpu")), ("tp=2", ("webgpu",))])
def test_so_does_a_gpu_in_software(split: str, names: tuple[str, ...], chain: Path, webgpu_python: str) -> None:
    with launch(chain, split, *names, pythons=(webgpu_python,)) as loaded:
        check(loaded, chain)


def test_what_a_provider_computes_wrongly_stays_on_the_processor(tmp_path: Path, webgpu_python: str) -> None:
    """WebGPU's convolutions over 6, 9, 15, ... channels: microsoft/onnxruntime#29651."""
    path = convolution(tmp_path / "named.onnx", "convolution")
    x = np.random.default_rng(0).standard_normal((2, 9, 8), np.float32)
    options = {"device": "webgpu", "worker_python": [webgpu_python], "threads": 1}
    with shoal.load(path, example_inputs={"x": x}, **options) as model:  # type: ignore[arg-type]
        found = model({"x": x})["y"]
    np.testing.assert_allclose(found, plain_session(path).run(["y"], {"x": x})[0], rtol=0, atol=1e-4)
    nameless = convolution(tmp_path / "nameless.onnx", "")
    with pytest.raises(ConfigError, match="webgpu:0 would compute a convolution of this graph wrongly"):
        shoal.load(nameless, example_inputs={"x": x}, **options)  # type: ignore[arg-type]


def convolution(path: Path, name: str) -> Path:
    """Input `x` [N, 9, 8], output `y` [N, 4, 8]."""
    kernel = np.random.default_rng(1).standard_normal((4, 9, 3), np.float32)
    node = helper.make_node("Conv", ["x", "kernel"], ["y"], pads=[1, 1], name=name)
    return save_graph(path, [node], [floats("x", "N", 9, 8)], [floats("y", "N", 4, 8)], {"kernel": kernel})


def test_options_of_a_build_reach_its_provider(chain: Path, webgpu_python: str) -> None:
    with pytest.raises(ModelLoadError, match="webgpu:0: Invalid preferred layout: XYZ"):
        launch(chain, "1", "webgpu", pythons=(webgpu_python,), options=("preferredLayout=XYZ",))


def test_two_devices_of_two_environments_share_a_graph(chain: Path, webgpu_python: str, openvino_python: str) -> None:
    pythons = (f"webgpu={webgpu_python}", f"openvino={openvino_python}")
    with launch(chain, "pp=3", "cpu", "webgpu", "openvino", pythons=pythons) as loaded:
        check(loaded, chain)


@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGSTOP])
def test_a_worker_on_a_device_that_dies_or_hangs_costs_no_chunk(
    stop: signal.Signals, chain: Path, openvino_python: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recovery, "_DEVICE_STEP_S", HANGING_S)
    with launch(chain, "pp=2", "cpu", "openvino", pythons=(openvino_python,)) as loaded:
        check(loaded, chain, stop=stop, worker=1)


def test_a_graph_on_a_device_is_not_computed_in_this_process(chain: Path, openvino_python: str) -> None:
    with launch(chain, "1", "openvino", pythons=(openvino_python,)) as loaded:
        assert isinstance(loaded.executors[0], PipelineExecutor)


def test_a_provider_that_is_not_installed_names_what_to_install(chain: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"has no OpenVINOExecutionProvider; pip install onnxruntime-ep-openvino, or "
    ):
        launch(chain, "1", "openvino", pythons=())


def test_a_device_that_there_is_not_is_refused(chain: Path, openvino_python: str) -> None:
    with pytest.raises(ConfigError, match=r"openvino:7: OpenVINOExecutionProvider has 1 devices"):
        launch(chain, "1", "openvino:7", pythons=(openvino_python,))


def test_options_reach_the_provider(chain: Path, openvino_python: str) -> None:
    with pytest.raises(ModelLoadError, match="openvino:0"):
        launch(chain, "1", "openvino", pythons=(openvino_python,), options=("load_config={",))


def test_too_little_memory_names_the_bytes_and_what_fits(chain: Path, openvino_python: str) -> None:
    with pytest.raises(
        CapacityError, match=r"may take 600 bytes, .* nodes 0 to 8 are 1,024 bytes; the first 4 of these 9"
    ):
        launch(chain, "1", "openvino", pythons=(openvino_python,), memory_bytes=600)


def test_a_python_that_there_is_not_is_one_line(chain: Path) -> None:
    with pytest.raises(ConfigError, match=r"--worker-python /no/python: No such file"):
        launch(chain, "1", "openvino", pythons=("/no/python",))


def test_a_driver_without_the_needed_device_is_one_line(
    chain: Path, webgpu_python: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VK_ICD_FILENAMES", "/nowhere.json")
    with pytest.raises(ConfigError, match=r"webgpu:0: WebGPU finds no GPU that it can use; install the GPU's Vulkan"):
        launch(chain, "1", "webgpu", pythons=(webgpu_python,))


def test_auto_goes_with_auto(chain: Path) -> None:
    with pytest.raises(ConfigError, match="--device auto needs --split auto"):
        launch(chain, "pp=2", "auto", pythons=())


def test_a_device_out_of_memory_costs_no_chunk(tmp_path: Path, webgpu_python: str, told: list[str]) -> None:
    """Nine rows take more than the largest buffer that the device can have: another worker computes them."""
    path = widened(tmp_path / "wide.onnx", 30_000_000)
    chunks = [
        Chunk(index=index, inputs={"x": np.full((9 if index == 2 else 1, 1), index, np.float32)}) for index in range(5)
    ]
    with launch(path, "dp=2", "cpu", "webgpu", pythons=(webgpu_python,)) as loaded, open_runner(loaded) as runner:
        found = {result.index: (result.error, np.array(result.outputs["y"])) for result in runner.run(iter(chunks))}
    assert {index: (error, y.max()) for index, (error, y) in found.items()} == {
        index: (None, index) for index in range(5)
    }
    assert all("webgpu:0 ran out of memory" in line for line in told if " is lost" in line)


def widened(path: Path, width: int) -> Path:
    """Input `x` [N, 1], which becomes `width` wide for a moment; output `y` [N], the same numbers."""
    nodes = [
        helper.make_node("Expand", ["x", "shape"], ["w"]),
        helper.make_node("ReduceMax", ["w"], ["y"], axes=[1], keepdims=0),
    ]
    return save_graph(path, nodes, [floats("x", "N", 1)], [floats("y", "N")], {"shape": np.array([1, width])})


def test_callers_from_python_name_devices_as_well(chain: Path, openvino_python: str) -> None:
    with shoal.load(chain, split="pp=2", threads=1, device="cpu,openvino", worker_python=[openvino_python]) as model:
        assert [shard.device and shard.device.name for shard in model.plan.shards] == [None, "openvino:0"]
        expected = plain_session(chain).run(["y"], {"x": rows(0)})[0]
        np.testing.assert_allclose(model(rows(0))["y"], expected, atol=TOLERANCE * np.abs(expected).max())
    with pytest.raises(ConfigError, match=r"there is no option devise: did you mean device"):
        shoal.load(chain, devise="cpu")  # type: ignore[call-arg]
