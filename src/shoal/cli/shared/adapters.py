"""What the command line says of LoRA adapters."""

from __future__ import annotations

from collections.abc import Iterable

from shoal.errors import ConfigError


def parse_adapters(given: Iterable[str]) -> dict[str, str]:
    """`NAME=DIR` of each adapter. Raises ConfigError."""
    adapters: dict[str, str] = {}
    for one in given:
        name, separator, path = one.partition("=")
        if not (name and separator and path):
            raise ConfigError(f"--lora {one}: give NAME=DIR")
        if name in adapters:
            raise ConfigError(f"--lora {one}: there is already an adapter named {name}")
        adapters[name] = path
    return adapters


def used_adapter(names: Iterable[str], said: str | None) -> str | None:
    """The adapter that a command computes with: what `--adapter` says, or the only one; None: there is none.

    Raises:
        ConfigError: there is no such adapter, or there are several and nothing is said.
    """
    there = list(names)
    if said is not None and said not in there:
        raise ConfigError(f"--adapter {said}: there is no such adapter; load it with --lora {said}=DIR")
    if said is None and len(there) > 1:
        raise ConfigError(f"there are {len(there)} adapters: choose one with --adapter {'|'.join(there)}")
    return said or next(iter(there), None)
