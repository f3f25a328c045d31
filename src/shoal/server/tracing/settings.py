"""Whether and where traces are sent, by OpenTelemetry's standard variables.

Source: OpenTelemetry specification, "Environment Variable Specification" and "OTLP Exporter".
"""

from __future__ import annotations

from collections.abc import Mapping

from shoal.errors import ConfigError

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")


def exporter_name(environment: Mapping[str, str]) -> str | None:
    """`otlp` or `console`; None: no traces are asked for.

    Raises:
        ConfigError: the exporter or the protocol is not supported.
    """
    if environment.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return None
    has_endpoint = any(environment.get(name) for name in _ENDPOINTS)
    name = environment.get("OTEL_TRACES_EXPORTER") or ("otlp" if has_endpoint else "none")
    if name == "none":
        return None
    if name not in ("otlp", "console"):
        raise ConfigError(f"OTEL_TRACES_EXPORTER={name}: it must be otlp, console or none")
    protocol = next((environment[key] for key in _PROTOCOLS if environment.get(key)), "http/protobuf")
    if name == "otlp" and protocol != "http/protobuf":
        raise ConfigError(f"traces are sent as http/protobuf, not as {protocol}: unset OTEL_EXPORTER_OTLP_PROTOCOL")
    return name
