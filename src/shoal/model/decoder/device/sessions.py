"""Sessions of a decoder's graphs on one device. Values that they pass to each other stay in its memory."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnxruntime as ort

from shoal.arrays import Array
from shoal.core.plan.devices.providers import PROCESSOR_MEMORY, PROVIDERS
from shoal.errors import CapacityError, ConfigError, ModelLoadError, ShoalError
from shoal.model.device.failures import device_loss, is_out_of_memory, unusable
from shoal.model.device.opening import check_nodes
from shoal.model.graph.stage.session import RUNTIME_ERRORS, runtime_reason
from shoal.model.runtime_sessions import session_options, start_session
from shoal.protocol.device_config import DeviceConfig


class DeviceSession:
    """A session for one graph."""

    def __init__(self, name: str, model: bytes, device: DeviceConfig, *, computes: bool = True) -> None:
        """Load the graph.

        Args:
            name: for error messages.
            model: the graph.
            device: to compute on.
            computes: whether the graph has something to compute, which the device must be able to do.

        Raises:
            ConfigError: the device is missing.
            CapacityError: the graph's weights do not fit its memory.
            ModelLoadError: ONNX Runtime refuses the graph.
        """
        self._device, self._floats = device, device_floats(device)
        self._memory = PROVIDERS[device.provider].binding
        try:
            self._session = start_session(model, session_options(), device)
        except RUNTIME_ERRORS as error:
            raise _load_error(name, device, error) from error
        self.note = check_nodes(self._session, device) if computes else None
        """What a user should know about how the graph is computed; None: nothing."""
        self.inputs = tuple(value.name for value in self._session.get_inputs())
        self.outputs = tuple(value.name for value in self._session.get_outputs())

    def run(
        self,
        values: Mapping[str, ort.OrtValue | Array],
        *,
        fetched: tuple[str, ...] = (),
        into: Mapping[str, ort.OrtValue] | None = None,
    ) -> dict[str, ort.OrtValue]:
        """Run the graph. Returns every output.

        Args:
            values: of the inputs, and possibly others; arrays are copied to the device, floats in its type.
            fetched: outputs that are wanted in the processor's memory.
            into: values whose memory outputs are to be written to.

        Raises:
            DeviceLost: the device is full or gone.
        """
        binding = self._session.io_binding()
        for name in self.inputs:
            value = values[name]
            if isinstance(value, np.ndarray):
                if value.dtype == np.float32:
                    value = value.astype(self._floats, copy=False)
                value = ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(value))
            binding.bind_ortvalue_input(name, value)
        for name in self.outputs:
            if into is not None and name in into:
                binding.bind_ortvalue_output(name, into[name])
            else:
                binding.bind_output(name, PROCESSOR_MEMORY if name in fetched else self._memory)
        try:
            self._session.run_with_iobinding(binding)
        except Exception as error:  # as above
            raise device_loss(error, self._device) or error from error
        return dict(zip(self.outputs, binding.get_outputs(), strict=True))


def device_floats(device: DeviceConfig) -> type[np.float32 | np.float16]:
    """The type of a language model's floats on a device."""
    return np.float16 if device.precision == "fp16" else np.float32


def _load_error(name: str, device: DeviceConfig, error: Exception) -> ShoalError:
    if (why := unusable(str(error))) is not None:
        return ConfigError(f"{device.name}: {why}")
    kind = CapacityError if is_out_of_memory(error) else ModelLoadError
    return kind(f"{name} on {device.name}: {runtime_reason(error)}")
