"""The execution providers of ONNX Runtime that a worker can compute through, and what installs each of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

DeviceKind = Literal["gpu", "npu", "cpu"]
PROCESSOR_MEMORY = "cpu"
"""The processor's memory in ONNX Runtime's I/O bindings."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Provider:
    """An execution provider of ONNX Runtime."""

    runtime_name: str
    """Its name in ONNX Runtime."""
    plugin: str | None
    """The package that adds it to an installed ONNX Runtime (its module has the same name with underscores); None:
    there is none."""
    build: str | None
    """The package that contains ONNX Runtime with this provider and replaces `onnxruntime`; None: there is none."""
    kind: DeviceKind
    """The kind of its devices, if they do not tell it themselves."""
    index_option: str | None = None
    """The provider's option that selects a device by its index; None: it always takes the first."""
    memory_option: str | None = None
    """The provider's option that limits memory in bytes; None: it has none."""
    binding: str = PROCESSOR_MEMORY
    """The memory in which outputs stay, by its name in ONNX Runtime's I/O bindings."""
    config_prefix: str | None = None
    """The prefix with which a build's options go into the session's configuration; None: the provider takes them
    itself."""
    plugin_options: tuple[tuple[str, str], ...] = ()
    """Options that the plugin gets unless the user gives them."""
    requirement: str | None = None
    """What pip is asked for, if the build's name alone does not bring all that it needs."""

    @property
    def keeps_values(self) -> bool:
        """Whether outputs of a run can stay in the device's memory until the next run; otherwise they are copied
        back."""
        return self.binding != PROCESSOR_MEMORY

    @property
    def install(self) -> str:
        """The command that installs it."""
        if self.plugin is not None:
            return f"pip install {self.plugin}"
        if self.build is not None:
            return f"pip uninstall -y onnxruntime && pip install {self.requirement or self.build}"
        return "build ONNX Runtime with it"


PROVIDERS: Mapping[str, Provider] = {
    "cuda": Provider(
        runtime_name="CUDAExecutionProvider",
        plugin=None,
        build="onnxruntime-gpu",
        kind="gpu",
        index_option="device_id",
        memory_option="gpu_mem_limit",
        binding="cuda",
        requirement="'onnxruntime-gpu[cuda,cudnn]'",
    ),
    "tensorrt": Provider(
        runtime_name="TensorrtExecutionProvider",
        plugin=None,
        build="onnxruntime-gpu",
        kind="gpu",
        index_option="device_id",
        requirement="'onnxruntime-gpu[cuda,cudnn]' tensorrt",
    ),
    "tensorrt-rtx": Provider(
        runtime_name="NvTensorRTRTXExecutionProvider",
        plugin="onnxruntime-ep-nv-tensorrt-rtx-cu13",
        build=None,
        kind="gpu",
        index_option="device_id",
    ),
    "migraphx": Provider(
        runtime_name="MIGraphXExecutionProvider",
        plugin=None,
        build="onnxruntime-migraphx",
        kind="gpu",
        index_option="device_id",
        memory_option="migraphx_mem_limit",
    ),
    "rocm": Provider(
        runtime_name="ROCMExecutionProvider",
        plugin=None,
        build="onnxruntime-rocm",
        kind="gpu",
        index_option="device_id",
        memory_option="gpu_mem_limit",
    ),
    "coreml": Provider(runtime_name="CoreMLExecutionProvider", plugin=None, build="onnxruntime", kind="gpu"),
    "mlx": Provider(runtime_name="MLXExecutionProvider", plugin="onnxruntime-ep-mlx", build=None, kind="gpu"),
    "webgpu": Provider(
        runtime_name="WebGpuExecutionProvider",
        plugin="onnxruntime-ep-webgpu",
        build="onnxruntime-webgpu",
        kind="gpu",
        binding="webgpu",
        config_prefix="ep.webgpuexecutionprovider.",  # options given as provider options are silently ignored
    ),
    "openvino": Provider(
        runtime_name="OpenVINOExecutionProvider",
        plugin="onnxruntime-ep-openvino",
        build="onnxruntime-openvino",
        kind="cpu",
        plugin_options=(
            ("load_config", '{"CPU":{"INFERENCE_PRECISION_HINT":"f32","DYNAMIC_QUANTIZATION_GROUP_SIZE":"0"}}'),
        ),  # without these it computes with 16 bits where it can
    ),
}
"""The providers by short name, in the order in which `--device gpu` prefers them."""
