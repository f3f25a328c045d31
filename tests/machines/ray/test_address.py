"""RAY_ADDRESS: what is meant by it, and what is said where it means nothing."""

from __future__ import annotations

import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import grpc
import pytest

from shoal.comm.tls.tls_link import Address
from shoal.errors import ConfigError
from shoal.machines.ray.address import can_be_reached_soon, check_that_a_head_listens, read_ray_address


@pytest.mark.parametrize(
    ("text", "address"),
    [
        (None, None),
        ("", None),
        ("  ", None),
        ("auto", None),
        ("h0:6379", ("h0", 6379)),
        (" 10.0.0.1:6379 ", ("10.0.0.1", 6379)),
        ("[fd00::1]:6379", ("fd00::1", 6379)),
    ],
)
def test_what_is_meant(text: str | None, address: Address | None) -> None:
    assert read_ray_address({} if text is None else {"RAY_ADDRESS": text}) == address


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("h0", "RAY_ADDRESS=h0: give HOST:PORT, such as h0:6379"),
        (":6379", "RAY_ADDRESS=:6379: give HOST:PORT, such as HOST:6379"),
        ("h0:", "RAY_ADDRESS=h0:: give HOST:PORT, such as h0:6379"),
        ("h0:port", "RAY_ADDRESS=h0:port: give HOST:PORT, such as h0:6379"),
        ("h0:٣", "RAY_ADDRESS=h0:٣: give HOST:PORT, such as h0:6379"),
        ("h0:99999", "RAY_ADDRESS=h0:99999: a port is a number from 1 to 65535"),
        ("h0:" + "9" * 5000, f"RAY_ADDRESS=h0:{'9' * 5000}: a port is a number from 1 to 65535"),
        ("h0:0", "RAY_ADDRESS=h0:0: a port is a number from 1 to 65535"),
        (
            "ray://h0:10001",
            "RAY_ADDRESS=ray://h0:10001: give HOST:PORT of Ray's head, not ray:// (such as h0:6379)",
        ),
        ("fd00::1:6379", "RAY_ADDRESS=fd00::1:6379: put an IPv6 address into brackets, such as [fd00::1]:6379"),
        ("[]:6379", "RAY_ADDRESS=[]:6379: give HOST:PORT, such as HOST:6379"),
        ("local", "RAY_ADDRESS=local would start a Ray of its own, on this machine: leave out --cluster ray"),
    ],
)
def test_what_makes_no_sense_is_said_in_one_line(text: str, complaint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_ray_address({"RAY_ADDRESS": text})
    assert str(caught.value) == complaint


def test_a_name_that_nobody_knows() -> None:
    with pytest.raises(ConfigError, match=r"^RAY_ADDRESS=nosuchhost\.invalid:6379: the name is not known$"):
        check_that_a_head_listens(("nosuchhost.invalid", 6379), is_tls=False)


def test_a_port_at_which_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = taken.getsockname()
        check_that_a_head_listens(address, is_tls=True)
    with pytest.raises(ConfigError, match=rf"^RAY_ADDRESS=127\.0\.0\.1:{address[1]}: nobody listens there; if no Ray"):
        check_that_a_head_listens(address, is_tls=False)


@pytest.mark.parametrize("says", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"-ERR", b"", None])
def test_what_listens_but_is_no_grpc_server_is_not_waited_for(
    says: bytes | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`None`: nothing at all, as a server does that waits for its client."""
    monkeypatch.setattr("shoal.machines.ray.address._TIMEOUT_S", 0.2 if says is None else 30.0)
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            sock, _ = listening.accept()
            with sock:
                sock.recv(100)
                if says is None:
                    sock.recv(1)
                else:
                    sock.sendall(says)

        server = threading.Thread(target=answer)
        server.start()
        try:
            with pytest.raises(ConfigError, match=r"the program that listens there is not a Ray head$"):
                check_that_a_head_listens(listening.getsockname(), is_tls=False)
        finally:
            server.join(30.0)


def test_a_grpc_server_may_be_a_head() -> None:
    server = grpc.server(ThreadPoolExecutor(1))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        check_that_a_head_listens(("127.0.0.1", port), is_tls=False)
    finally:
        server.stop(None).wait()


def test_a_machine_is_reached_where_its_kernel_takes_a_connection_soon() -> None:
    """A port whose line is full drops what comes, as a cable does that is pulled."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listening, ExitStack() as waiting:
        address = listening.getsockname()
        assert can_be_reached_soon(address, 30.0)
        for _ in range(3):
            late = waiting.enter_context(socket.socket())
            late.setblocking(False)
            late.connect_ex(address)
        assert not can_be_reached_soon(address, 0.3)
    assert not can_be_reached_soon(address, 30.0), "nobody listens"
    assert not can_be_reached_soon(("no.such.host.invalid", 1), 30.0)
