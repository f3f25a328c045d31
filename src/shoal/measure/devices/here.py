"""`python -m shoal.measure.devices.here`: find devices, in a process of its own, as a broken driver may crash it."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import msgspec
import numpy as np
import onnx
import onnxruntime as ort
from onnx.helper import make_graph, make_model, make_node, make_opsetid, make_tensor_value_info

from shoal.core.plan.devices.description import MachineDevices, ProviderDevice
from shoal.core.plan.devices.providers import PROVIDERS, DeviceKind
from shoal.errors import ConfigError
from shoal.measure.devices.hardware import find_hardware
from shoal.measure.devices.processor import find_processor
from shoal.model.device.failures import unusable
from shoal.model.device.plugins import clashing_packages, is_built_in, package_of, plugin_devices
from shoal.model.graph.stage.session import runtime_reason
from shoal.model.runtime_sessions import session_options, start_session
from shoal.protocol.device_config import DeviceConfig

_PROBE_VERSIONS = (8, 17)
"""File format and operator set of the test model: any that ONNX Runtime supports."""


def main() -> int:
    """Write the devices to stdout, as JSON."""
    found = MachineDevices(
        processor=find_processor(),
        hardware=find_hardware(),
        devices=tuple(_provider_devices()),
        runtime=ort.__version__,
        clash=clashing_packages(),
    )
    sys.stdout.buffer.write(msgspec.json.encode(found))
    sys.stdout.flush()
    return 0


def _provider_devices() -> Iterator[ProviderDevice]:
    for name in PROVIDERS:
        try:
            devices = plugin_devices(name)
        except ConfigError as error:
            yield _device(name, 0, PROVIDERS[name].kind, "", str(error))
            continue
        for index, device in enumerate(devices):
            yield _device(
                name, index, _kind(device), _title(device), _problem(DeviceConfig(provider=name, index=index))
            )
        if is_built_in(name):
            yield _device(name, 0, PROVIDERS[name].kind, "", _problem(DeviceConfig(provider=name)))


def _device(name: str, index: int, kind: DeviceKind, title: str, problem: str | None) -> ProviderDevice:
    return ProviderDevice(provider=name, index=index, kind=kind, title=title, package=package_of(name), problem=problem)


def _kind(device: ort.OrtEpDevice) -> DeviceKind:
    kinds = ort.OrtHardwareDeviceType
    if device.device.type == kinds.CPU:
        return "cpu"
    return "gpu" if device.device.type == kinds.GPU else "npu"


def _title(device: ort.OrtEpDevice) -> str:
    named = {**device.device.metadata, **device.ep_metadata}
    return named.get("FULL_DEVICE_NAME") or named.get("Description") or device.device.vendor


def _problem(device: DeviceConfig) -> str | None:
    """Why a device cannot compute; None: it has run the test model."""
    ends = [make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in ("a", "b", "c")]
    graph = make_graph([make_node("Add", ["a", "b"], ["c"])], "probe", ends[:2], ends[2:])
    format_version, operator_set = _PROBE_VERSIONS
    model = make_model(graph, ir_version=format_version, opset_imports=[make_opsetid("", operator_set)])
    one = np.ones(1, np.float32)
    try:
        session = start_session(model.SerializeToString(), session_options(1), device)
        (result,) = session.run(None, {"a": one, "b": one})
    except Exception as error:  # ONNX Runtime has an exception class for each status code
        return unusable(str(error)) or runtime_reason(error)
    return None if np.asarray(result).tolist() == [2.0] else "it cannot add one and one"


if __name__ == "__main__":
    sys.exit(main())
