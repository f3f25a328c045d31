"""The execution providers of ONNX Runtime that a worker can compute through, and what installs each of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

DeviceKind = Literal["gpu", "npu", "cpu"]
PROCESSOR_MEMORY = "cpu"
"""As ONNX Runtime's bindings call it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Provider:
    """One execution provider."""

    runtime_name: str
    """What ONNX Runtime calls it."""
    plugin: str | None
    """Package that adds it to an installed ONNX Runtime; its module is named alike, with underscores. None: none."""
    build: str | None
    """Package that holds a whole ONNX Runtime with it, in the place of `onnxruntime`; None: none."""
    kind: DeviceKind
    """What its devices are, where they do not say it themselves."""
    index_option: str | None = None
    """The provider's option that chooses a device by its number; None: it takes the first."""
    memory_option: str | None = None
    """The provider's option that bounds the memory in bytes; None: it has none."""
    binding: str = PROCESSOR_MEMORY
    """What ONNX Runtime's bindings call the memory in which outputs stay."""
    config_prefix: str | None = None
    """What a build's options are called by in the session's configuration, before their names; None: the provider takes
    them itself."""
    plugin_options: tuple[tuple[str, str], ...] = ()
    """Options that the plugin gets where the user does not give them."""

    @property
    def keeps_values(self) -> bool:
        """Whether what a run gives can stay in the device's memory until the next; otherwise it comes back."""
        return self.binding != PROCESSOR_MEMORY

    @property
    def install(self) -> str:
        """The line that installs it."""
        if self.plugin is not None:
            return f"pip install {self.plugin}"
        if self.build is not None:
            return f"pip uninstall -y onnxruntime && pip install {self.build}"
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
    ),
    "tensorrt": Provider(
        runtime_name="TensorrtExecutionProvider",
        plugin=None,
        build="onnxruntime-gpu",
        kind="gpu",
        index_option="device_id",
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
        config_prefix="ep.webgpuexecutionprovider.",  # its options beside its name are ignored without a word
    ),
    "openvino": Provider(
        runtime_name="OpenVINOExecutionProvider",
        plugin="onnxruntime-ep-openvino",
        build="onnxruntime-openvino",
        kind="cpu",
        plugin_options=(
            ("load_config", '{"CPU":{"INFERENCE_PRECISION_HINT":"f32","DYNAMIC_QUANTIZATION_GROUP_SIZE":"0"}}'),
        ),  # else 16 bits where it has them
    ),
}
"""By their short names, in the order in which `--device gpu` prefers them."""
