"""Ports that listeners may take."""

from __future__ import annotations

import errno
import socket

import pytest

from shoal.comm.links.ports import ANY_PORT, format_ports, listen_on_any, parse_ports
from shoal.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "ports"),
    [("", ANY_PORT), ("  ", ANY_PORT), ("20000-20100", range(20000, 20101)), ("7-7", range(7, 8))],
)
def test_a_range_is_read_and_spelled(text: str, ports: range) -> None:
    assert parse_ports(text) == ports
    assert parse_ports(format_ports(ports)) == ports


@pytest.mark.parametrize(
    "text", ["20000", "0-5", "5-4", "1-65536", "a-b", "-", "1-2-3", "1,2", "²-³", "-5-7", "9" * 5000 + "-1"]
)
def test_what_is_no_range_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=f"^SHOAL_PORTS={text}: give the first and the last port, such as"):
        parse_ports(text)


def test_the_port_that_is_free_is_found() -> None:
    taken = {20000, 20001, 20003}

    def listen(port: int) -> int:
        if port in taken:
            raise OSError(errno.EADDRINUSE, "in use")
        return port

    for _ in range(20):
        assert listen_on_any(range(20000, 20004), listen) == 20002
    taken.add(20002)
    with pytest.raises(ConfigError, match="no port of SHOAL_PORTS=20000-20003 is free"):
        listen_on_any(range(20000, 20004), listen)


def test_an_address_that_cannot_be_had_is_not_tried_again() -> None:
    tried: list[int] = []

    def listen(port: int) -> socket.socket:
        tried.append(port)
        raise OSError(errno.EADDRNOTAVAIL, "not here")

    with pytest.raises(OSError, match="not here"):
        listen_on_any(range(20000, 20004), listen)
    assert len(tried) == 1
