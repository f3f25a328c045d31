"""What a device's provider computes itself, found by trying a graph of one product that may not fall back."""

from __future__ import annotations

from functools import cache
from typing import Literal

import numpy as np

from shoal.errors import ConfigError
from shoal.model.decoder.device.sessions import device_floats
from shoal.model.decoder.onnx.graph_builder import GraphBuilder, GraphForm
from shoal.model.graph.stage.session import RUNTIME_ERRORS, runtime_reason
from shoal.model.runtime_sessions import session_options, start_session
from shoal.model.weights import BLOCK, BlockWeight
from shoal.protocol.device_config import DeviceConfig

Bits = Literal[4, 8]
_ALWAYS: Bits = 4
_BITS: tuple[Bits, ...] = (_ALWAYS, 8)


@cache
def device_form(device: DeviceConfig) -> GraphForm:
    """How a language model's graphs are written for a device: blocks of 8 bits are kept if it multiplies them.

    Raises:
        ConfigError: the device does not compute with the floats that were asked for.
    """
    floats = device_floats(device)
    refused = {bits: _refusal(bits, floats, device) for bits in _BITS}
    if floats is np.float16 and refused[_ALWAYS] is not None:
        raise ConfigError(f"{device.name} does not compute in fp16: {refused[_ALWAYS]}; leave out --device-precision")
    bits = tuple(bits for bits, why in refused.items() if why is None or bits == _ALWAYS)
    return GraphForm(exact_activations=True, floats=floats, narrow_bits=bits)


def _refusal(bits: Bits, floats: type[np.float32 | np.float16], device: DeviceConfig) -> str | None:
    """Why a device does not itself multiply blocks of this many bits with such floats; None: it does."""
    builder = GraphBuilder("probe", GraphForm(exact_activations=True, floats=floats, narrow_bits=_BITS))
    q_NGB = np.zeros((BLOCK, 1, BLOCK * bits // 8), np.uint8)
    weight = BlockWeight(bits=bits, q_NGB=q_NGB, scales_NG=np.ones((BLOCK, 1), np.float32))
    builder.output("y", builder.linear(builder.input("x", BLOCK), [weight]), BLOCK)
    try:
        session = start_session(builder.serialize(), session_options(), device, needs_device=True)
        session.run(None, {"x": np.zeros((1, BLOCK), floats)})
    except RUNTIME_ERRORS as error:
        return runtime_reason(error)
    return None
