"""The ports that a listener between machines may use, for firewalls that let only some through."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from errno import EADDRINUSE
from typing import TypeVar

from shoal.errors import ConfigError

VARIABLE = "SHOAL_PORTS"
ANY_PORT = range(1)
"""Port 0: the kernel chooses a free one."""
_LAST_PORT = 65_535
_MAX_DIGITS = 5
MadeT = TypeVar("MadeT")


def parse_ports(text: str) -> range:
    """Ports from a text such as `20000-20100`, both included; empty: any. Raises ConfigError."""
    if not text.strip():
        return ANY_PORT
    first, _, last = text.strip().partition("-")
    if not (_is_number(first) and _is_number(last)) or not 1 <= int(first) <= int(last) <= _LAST_PORT:
        raise ConfigError(f"{VARIABLE}={text}: give the first and the last port, such as {VARIABLE}=20000-20100")
    return range(int(first), int(last) + 1)


def format_ports(ports: range) -> str:
    """The text that `parse_ports` reads."""
    return "" if ports == ANY_PORT else f"{ports.start}-{ports.stop - 1}"


def listen_on_any(ports: range, listen: Callable[[int], MadeT]) -> MadeT:
    """Call `listen` with ports until one is free, starting at a random one, so that processes seldom collide.

    Raises:
        ConfigError: no port is free.
        OSError: the address cannot be listened on at all.
    """
    for port in _shuffled(ports):
        try:
            return listen(port)
        except OSError as error:
            if error.errno != EADDRINUSE:
                raise
    raise ConfigError(f"no port of {VARIABLE}={format_ports(ports)} is free: give more ports, three for each worker")


def _shuffled(ports: range) -> Iterator[int]:
    offset = random.randrange(len(ports))
    yield from ports[offset:]
    yield from ports[:offset]


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS
