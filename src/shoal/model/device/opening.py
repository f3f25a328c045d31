"""Opens ONNX Runtime sessions on a device, and checks where their nodes ended up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import onnxruntime as ort

from shoal.core.plan.devices.providers import PROVIDERS
from shoal.errors import ConfigError
from shoal.model.device.plugins import is_built_in, not_at_hand, plugin_devices
from shoal.protocol.device_config import DeviceConfig

_RECORD_NODES = "session.record_ep_graph_assignment_info"
"""Session option with which a session can say which provider has which nodes."""
_MOST_KINDS = 6
"""Most kinds of operators that a message names."""

Providers = Sequence[tuple[str, dict[str, str]]]


def choose_device(options: ort.SessionOptions, device: DeviceConfig) -> Providers | None:
    """Set the device on which a session computes.

    Returns:
        The providers that the session must be given besides the options; None if they are in the options.

    Raises:
        ConfigError: the provider is not installed here, or has no such device.
    """
    options.add_session_config_entry(_RECORD_NODES, "1")
    provider, given = PROVIDERS[device.provider], dict(device.options)
    if devices := plugin_devices(device.provider):
        if device.index >= len(devices):
            raise ConfigError(f"{device.name}: {provider.runtime_name} has {len(devices)} devices, counted from 0")
        options.add_provider_for_devices([devices[device.index]], {**dict(provider.plugin_options), **given})
        return None
    if not is_built_in(device.provider):
        raise not_at_hand(device.provider)
    if provider.index_option is not None:
        given.setdefault(provider.index_option, str(device.index))
    elif device.index:
        raise ConfigError(f"{device.name}: {provider.runtime_name} takes the first device; choose by --provider-option")
    if provider.memory_option is not None and device.memory_bytes is not None:
        given.setdefault(provider.memory_option, str(device.memory_bytes))
    if provider.config_prefix is not None:
        for name, value in given.items():
            options.add_session_config_entry(provider.config_prefix + name, value)
        return [(provider.runtime_name, {})]
    return [(provider.runtime_name, given)]


def check_nodes(session: ort.InferenceSession, device: DeviceConfig) -> str | None:
    """Describe the nodes of a device's graph that ONNX Runtime gave to the processor; None: there are none.

    Raises:
        ConfigError: the device has no node of the graph.
    """
    runtime_name = PROVIDERS[device.provider].runtime_name
    nodes = _nodes_by_provider(session)
    others = Counter(kind for provider, kinds in nodes.items() if provider != runtime_name for kind in kinds)
    if others and not nodes.get(runtime_name) and _tells_all(ort.__version__):
        raise ConfigError(
            f"{device.name}: {runtime_name} cannot compute any node of this graph; the processor would compute "
            "all of them"
        )
    if not others:
        return None
    kinds = [kind for kind, _ in others.most_common()]
    named = ", ".join(kinds[:_MOST_KINDS]) + (", ..." if len(kinds) > _MOST_KINDS else "")
    return f"{others.total()} node{'s' if others.total() > 1 else ''} on the processor: {named}"


def _tells_all(version: str) -> bool:
    """Whether a release of ONNX Runtime names the provider of every node: 1.27 leaves out most nodes of a device. Those
    of the processor are right in both."""
    numbers = [int(part) for part in version.split(".")[:2] if part.isdecimal()]
    return numbers >= [1, 32]


def _nodes_by_provider(session: ort.InferenceSession) -> dict[str, list[str]]:
    """Kinds of the nodes that each provider has; empty if this release does not say."""
    tell: Callable[[], Any] | None = getattr(session, "get_provider_graph_assignment_info", None)
    found: dict[str, list[str]] = {}
    for part in () if tell is None else tell():
        found.setdefault(part.ep_name, []).extend(node.op_type for node in part.get_nodes())
    return found
