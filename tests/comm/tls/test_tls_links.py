"""Links between machines: frames as over any link, nobody comes in uninvited, and nothing can be read on the way."""

from __future__ import annotations

import base64
import datetime
import os
import re
import select
import socket
import ssl
import struct
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from functools import partial

import numpy as np
import pytest

from shoal.comm.groups.tcp_group import TcpGroup
from shoal.comm.links.link import Link
from shoal.comm.tls import tls_listener
from shoal.comm.tls.tls_identity import ClusterAuthority, Credentials, MachineKey, connecting_context
from shoal.comm.tls.tls_link import MAX_KEY_BYTES, Address, connect_tls
from shoal.comm.tls.tls_listener import TlsListener
from shoal.comm.tls.tls_mesh import connect_tls_mesh
from shoal.errors import ConfigError, LocalProtocolError, RemoteProtocolError, WorkerLost
from shoal.worker.remote_links import format_where, parse_where
from tests.comm.groups.tcp_ranks import WAIT_S, tcp_groups, together

_SHORT_S = 0.2
"""A deadline that is meant to pass."""
_FRAME = struct.pack("<I", 4) + b"peer"
"""Well-formed, as a hello too."""
Pair = tuple[Link, Link]


@pytest.fixture(scope="module")
def authority() -> ClusterAuthority:
    return ClusterAuthority()


@pytest.fixture
def listener(authority: ClusterAuthority) -> Iterator[TlsListener]:
    listener = TlsListener(authority.issue(), host="127.0.0.1")
    yield listener
    listener.close()


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many bytes of hellos the listener asked for: nothing before a peer is verified."""
    asked: list[int] = []
    hear = tls_listener._Caller._hear

    def record(caller: tls_listener._Caller, num_bytes: int) -> None:
        asked.append(num_bytes)
        hear(caller, num_bytes)

    monkeypatch.setattr(tls_listener._Caller, "_hear", record)
    return asked


@pytest.fixture
def pair(listener: TlsListener, authority: ClusterAuthority) -> Iterator[Pair]:
    links = _linked(listener, authority.issue())
    yield links
    for link in links:
        link.close()


def _linked(listener: TlsListener, credentials: Credentials, address: Address | None = None) -> Pair:
    connected = connect_tls(address or listener.address, credentials, key="peer", timeout_s=WAIT_S)
    return connected, listener.take("peer", timeout_s=WAIT_S)


def _received(link: Link) -> bytes:
    frame = link.receive(timeout_s=WAIT_S)
    assert frame is not None
    return bytes(frame)


def _send_several(link: Link, frames: list[bytes]) -> None:
    for frame in frames:
        link.send([frame], timeout_s=WAIT_S)


def _refusal(listener: TlsListener) -> str:
    """What is said of a peer that was refused; it may know that sooner than the listener."""
    while True:
        with pytest.raises(WorkerLost) as missed:
            listener.take("peer", timeout_s=_SHORT_S)
        if "was refused" in str(missed.value):
            return str(missed.value)


def _assert_linked(listener: TlsListener, credentials: Credentials) -> None:
    for link in (pair := _linked(listener, credentials)):
        link.send([b"hello"], timeout_s=WAIT_S)
    assert [_received(link) for link in pair] == [b"hello"] * 2
    for link in pair:
        link.close()


@pytest.mark.parametrize("reverse", [False, True], ids=["from who connects", "from who listens"])
def test_frames_of_every_size_stream_through(pair: Pair, reverse: bool) -> None:
    sender, receiver = reversed(pair) if reverse else pair
    frames = [os.urandom(size) for size in (0, 1, 5, 16_379, 16_380, 16_381, 16_384, 65_536, 65_537, 3_000_001)]

    def send_all() -> list[bytes]:
        for frame in frames:
            sender.send([frame[:7], b"", frame[7:20_000], frame[20_000:]], timeout_s=WAIT_S)
        return frames

    assert together([send_all, lambda: [_received(receiver) for _ in frames]]) == [frames] * 2
    assert receiver.receive(timeout_s=0.0) is None


def test_several_frames_of_one_record_are_all_received_after_one_wake_up(pair: Pair) -> None:
    sender, receiver = pair
    stream = b"".join(struct.pack("<I", 1) + bytes([number]) for number in range(9))
    sender._sock.sendall(stream)  # type: ignore[attr-defined]
    assert select.select([receiver.fileno()], [], [], WAIT_S)[0]
    assert _received(receiver) == b"\0"
    assert not select.select([receiver.fileno()], [], [], 0)[0]  # the rest is not in the socket any more
    assert [receiver.receive(timeout_s=0.0) for _ in range(9)] == [*(bytes([n]) for n in range(1, 9)), None]


def test_a_peer_that_takes_nothing_is_a_loss_after_the_deadline(pair: Pair) -> None:
    with pytest.raises(WorkerLost, match="deadline"):
        pair[0].send([bytes(30_000_000)], timeout_s=_SHORT_S)


def test_a_frame_in_part_is_kept_across_timeouts(pair: Pair) -> None:
    frame, received = os.urandom(2_000_000), None
    thread = threading.Thread(target=lambda: pair[0].send([frame], timeout_s=WAIT_S))
    thread.start()
    while received is None:
        received = pair[1].receive(timeout_s=0.0)
    thread.join(WAIT_S)
    assert bytes(received) == frame


@pytest.mark.parametrize("closing", [0, 1])
def test_a_closed_peer_is_lost_after_what_it_sent(pair: Pair, closing: int) -> None:
    other = pair[1 - closing]
    pair[closing].send([b"last words"], timeout_s=WAIT_S)
    pair[closing].close()
    assert _received(other) == b"last words"
    with pytest.raises(WorkerLost):
        other.receive(timeout_s=WAIT_S)
    with pytest.raises(WorkerLost):
        _send_several(other, [bytes(1 << 20)] * 3)  # the first may still fit into a buffer of the kernel


def _without_certificate(authority: ClusterAuthority) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(cadata=authority.issue().authority_pem.decode())
    return context


def _trusting(credentials: Credentials) -> ssl.SSLContext:
    """Of a client that does not mind whom it talks to."""
    context = connecting_context(credentials)
    context.verify_mode = ssl.CERT_NONE
    return context


def _strangers(authority: ClusterAuthority) -> dict[str, ssl.SSLContext]:
    older = _trusting(authority.issue())
    older.minimum_version = older.maximum_version = ssl.TLSVersion.TLSv1_2
    return {
        "without a certificate": _without_certificate(authority),
        "of another cluster": _trusting(ClusterAuthority().issue()),
        "of TLS 1.2": older,
    }


@pytest.mark.parametrize("who", ["without a certificate", "of another cluster", "of TLS 1.2"])
def test_a_stranger_is_refused_before_a_byte_of_it_is_read(
    listener: TlsListener, authority: ClusterAuthority, heard: list[int], who: str
) -> None:
    with socket.create_connection(listener.address, timeout=WAIT_S) as plain, suppress(OSError):
        sock = _strangers(authority)[who].wrap_socket(plain)
        with sock:
            sock.sendall(_FRAME)  # in version 1.3 the client has finished before the server has seen its certificate
            assert sock.recv(1) == b"", "it was let in"
    complaint = _refusal(listener)
    assert re.match(r"nobody came as 'peer' before the deadline; 127.0.0.1:\d+ was refused", complaint)
    assert heard == []
    _assert_linked(listener, authority.issue())
    assert heard


def test_an_expired_certificate_is_refused(authority: ClusterAuthority, heard: list[int]) -> None:
    expired = ClusterAuthority(valid_for=datetime.timedelta(seconds=-1))
    listener = TlsListener(expired.issue(), host="127.0.0.1")
    with (
        socket.create_connection(listener.address, timeout=WAIT_S) as plain,
        suppress(OSError),
        _trusting(expired.issue()).wrap_socket(plain) as sock,
    ):
        sock.sendall(_FRAME)
        assert sock.recv(1) == b"", "it was let in"
    assert "expired" in _refusal(listener)
    assert heard == []
    with pytest.raises(RemoteProtocolError, match="expired"):
        connect_tls(listener.address, expired.issue(), key="peer", timeout_s=WAIT_S)
    listener.close()


@pytest.mark.parametrize("said", [_FRAME, b"GET / HTTP/1.1\r\n\r\n", bytes(100), bytes(range(256)) * 20])
def test_who_does_not_speak_tls_is_refused(
    listener: TlsListener, authority: ClusterAuthority, heard: list[int], said: bytes
) -> None:
    with socket.create_connection(listener.address, timeout=WAIT_S) as sock, suppress(OSError):
        sock.sendall(said)  # it may be refused before it has said everything
        sock.shutdown(socket.SHUT_WR)
        while sock.recv(1000):
            pass
    assert heard == []
    _assert_linked(listener, authority.issue())


def test_a_listener_of_another_cluster_is_refused(listener: TlsListener) -> None:
    with pytest.raises(RemoteProtocolError, match="not of one cluster"):
        connect_tls(listener.address, ClusterAuthority().issue(), key="peer", timeout_s=WAIT_S)


def test_stalled_handshakes_do_not_block_others_and_are_dropped(
    listener: TlsListener, authority: ClusterAuthority, monkeypatch: pytest.MonkeyPatch
) -> None:
    stalled = [socket.create_connection(listener.address, timeout=WAIT_S) for _ in range(2 * tls_listener._MAX_CALLERS)]
    _assert_linked(listener, authority.issue())
    assert stalled[0].recv(1) == b"", "the oldest make room"
    for sock in stalled:
        sock.close()
    monkeypatch.setattr(tls_listener, "_HELLO_S", _SHORT_S)
    with socket.create_connection(listener.address, timeout=WAIT_S) as late:
        assert late.recv(1) == b"", "time is over"


def test_who_connects_does_not_wait_for_ever() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        with pytest.raises(WorkerLost, match="no link to"):
            connect_tls(silent.getsockname(), ClusterAuthority().issue(), key="peer", timeout_s=_SHORT_S)
        address = silent.getsockname()
    with pytest.raises(WorkerLost, match="refused"):
        connect_tls(address, ClusterAuthority().issue(), key="peer", timeout_s=WAIT_S)


@pytest.mark.parametrize("said", [struct.pack("<I", MAX_KEY_BYTES + 1), bytes(4), struct.pack("<I", 1) + b"\xff"])
def test_a_hello_that_makes_no_sense_is_refused(
    listener: TlsListener, authority: ClusterAuthority, said: bytes
) -> None:
    with (
        socket.create_connection(listener.address, timeout=WAIT_S) as plain,
        connecting_context(authority.issue()).wrap_socket(plain) as sock,
    ):
        sock.sendall(said)
        assert sock.recv(1) == b""
    _assert_linked(listener, authority.issue())


@pytest.mark.parametrize("key", ["", "k" * (MAX_KEY_BYTES + 1)])
def test_a_key_that_no_listener_takes_is_not_sent(listener: TlsListener, authority: ClusterAuthority, key: str) -> None:
    with pytest.raises(LocalProtocolError):
        connect_tls(listener.address, authority.issue(), key=key, timeout_s=WAIT_S)


def test_everybody_gets_the_link_with_its_key_and_the_last_of_a_key_counts(
    listener: TlsListener, authority: ClusterAuthority
) -> None:
    keys = ["a", "b", "k" * MAX_KEY_BYTES, "a"]
    ours = [connect_tls(listener.address, authority.issue(), key=key, timeout_s=WAIT_S) for key in keys]
    for number, link in enumerate(ours[1:], 1):
        link.send([bytes([number])], timeout_s=WAIT_S)
    theirs = [listener.take(key, timeout_s=WAIT_S) for key in reversed(keys[1:])]
    assert [_received(link) for link in theirs] == [b"\3", b"\2", b"\1"]
    with pytest.raises(WorkerLost):
        ours[0].receive(timeout_s=WAIT_S)
    for link in (*ours, *theirs):
        link.close()


def test_nothing_can_be_read_on_the_way(listener: TlsListener, authority: ClusterAuthority) -> None:
    seen, secret = bytearray(), b"the payload of a frame" * 1000
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        thread = threading.Thread(target=_pass_on, args=(proxy, listener.address, seen))
        thread.start()
        links = _linked(listener, authority.issue(), proxy.getsockname())
        for link, other in (links, links[::-1]):
            link.send([secret], timeout_s=WAIT_S)
            assert _received(other) == secret
        for link in links:
            link.close()
        thread.join(WAIT_S)
    assert len(seen) > 2 * len(secret)
    assert secret[:22] not in seen
    assert b"peer" not in seen


def _pass_on(proxy: socket.socket, address: Address, seen: bytearray) -> None:
    """Both ways until an end closes."""
    with proxy.accept()[0] as near, socket.create_connection(address) as far, suppress(ConnectionError):
        others = {near: far, far: near}
        while True:
            for sock in select.select(list(others), [], [], WAIT_S)[0]:
                data = sock.recv(1 << 16)
                if not data:
                    return
                seen += data
                others[sock].sendall(data)


def _tls_groups(size: int, switch_bytes: int) -> list[TcpGroup]:
    authority = ClusterAuthority()
    credentials = [authority.issue() for _ in range(size)]
    listeners = [TlsListener(own, host="127.0.0.1") for own in credentials]

    def join(rank: int) -> TcpGroup:
        peers = connect_tls_mesh(
            [listener.address for listener in listeners],
            name="stage 0",
            rank=rank,
            generation=1,
            listener=listeners[rank],
            credentials=credentials[rank],
            timeout_s=WAIT_S,
        )
        return TcpGroup(peers, rank=rank, size=size, generation=1, switch_bytes=switch_bytes)

    groups = together([partial(join, rank) for rank in range(size)])
    for listener in listeners:
        listener.close()
    return groups


@pytest.mark.parametrize("switch_bytes", [0, 1 << 40], ids=["segments", "one-shot"])
def test_groups_sum_as_over_plain_connections(switch_bytes: int) -> None:
    plain, tls = tcp_groups(3, switch_bytes=switch_bytes), _tls_groups(3, switch_bytes)
    rng = np.random.default_rng(0)
    for num_floats in (1, 1000, 40_003, 2_000_000):  # the last is more than all buffers hold
        parts = rng.standard_normal((3, num_floats)).astype(np.float32)
        sums = [parts.copy(), parts.copy()]
        for groups, x in zip((plain, tls), sums, strict=True):
            together([partial(group.all_reduce, x[group.rank], timeout_s=WAIT_S) for group in groups])
        np.testing.assert_array_equal(*sums)
    for group in (*plain, *tls):
        group.close()


def test_whoever_leaves_a_group_is_named() -> None:
    groups = _tls_groups(3, 0)
    groups[1].close()
    for group in (groups[0], groups[2]):
        with pytest.raises(WorkerLost, match="rank 1"):
            group.all_reduce(np.zeros(4, np.float32), timeout_s=WAIT_S)
    for group in groups:
        group.close()


def test_a_rank_that_does_not_connect_is_named(listener: TlsListener, authority: ClusterAuthority) -> None:
    with pytest.raises(WorkerLost, match="rank 1 did not connect before the deadline"):
        connect_tls_mesh(
            [listener.address] * 2,
            name="s",
            rank=0,
            generation=2,
            listener=listener,
            credentials=authority.issue(),
            timeout_s=_SHORT_S,
        )


def test_nothing_is_left_behind(authority: ClusterAuthority) -> None:
    before = sorted(os.listdir("/proc/self/fd"))
    listener = TlsListener(authority.issue(), host="127.0.0.1")
    links = _linked(listener, authority.issue())
    connect_tls(listener.address, authority.issue(), key="never taken", timeout_s=WAIT_S).close()
    with socket.create_connection(listener.address):
        listener.close()
        listener.close()
    for link in links:
        link.close()
    with pytest.raises(WorkerLost, match="closed"):
        listener.take("never taken", timeout_s=WAIT_S)
    assert sorted(os.listdir("/proc/self/fd")) == before
    assert "shoal-tls-listener" not in [thread.name for thread in threading.enumerate()]


def test_credentials_do_not_show_their_key_and_must_make_sense(authority: ClusterAuthority) -> None:
    credentials = authority.issue()
    assert "PRIVATE" in credentials.key_pem.decode()
    assert "PRIVATE" not in repr(credentials)
    of_another = Credentials(
        authority_pem=credentials.authority_pem,
        certificate_pem=credentials.certificate_pem,
        key_pem=authority.issue().key_pem,
    )
    with pytest.raises(ConfigError, match="not the credentials"):
        connecting_context(of_another)


def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.asymmetric", None)
    with pytest.raises(ConfigError, match=r"pip install 'shoal-inference\[ray\]'"):
        ClusterAuthority()


def test_a_member_has_a_key_that_never_left_it(listener: TlsListener, authority: ClusterAuthority) -> None:
    key = MachineKey()
    membership = authority.admit(key.request())
    _assert_linked(listener, key.credentials(membership))
    travelled = key.request() + membership.authority_pem + membership.certificate_pem
    assert b"PRIVATE" not in travelled
    assert b"PRIVATE" in key.credentials(membership).key_pem


def test_a_membership_is_worth_nothing_without_its_key(authority: ClusterAuthority) -> None:
    membership = authority.admit(MachineKey().request())
    with pytest.raises(ConfigError, match="not the credentials"):
        connecting_context(MachineKey().credentials(membership))


def test_only_requests_that_their_own_key_has_signed_are_answered(authority: ClusterAuthority) -> None:
    pem = MachineKey().request()
    body = base64.b64decode(b"".join(pem.splitlines()[1:-1]))
    forged = body[:-1] + bytes([body[-1] ^ 1])
    lines = base64.encodebytes(forged).replace(b"\n", b"")
    for request in (
        b"",
        b"no request",
        pem[:-60],
        b"-----BEGIN CERTIFICATE REQUEST-----\n" + lines + b"\n-----END CERTIFICATE REQUEST-----\n",
    ):
        with pytest.raises(ConfigError, match="signing request"):
            authority.admit(request)


def test_ipv6_addresses_can_be_listened_on_and_dialled(authority: ClusterAuthority) -> None:
    try:
        listener = TlsListener(authority.issue(), host="::1")
    except OSError:
        pytest.skip("no IPv6 here")
    try:
        host, port = listener.address
        assert host == "::1"
        _assert_linked(listener, authority.issue())
        assert parse_where(format_where(listener.address, "1/stage-0/shard-0")) == (("::1", port), "1/stage-0/shard-0")
    finally:
        listener.close()
    with pytest.raises(WorkerLost, match=rf"no link to \[::1\]:{port}: "):
        connect_tls((host, port), authority.issue(), key="peer", timeout_s=WAIT_S)


def test_a_listener_keeps_to_its_ports(authority: ClusterAuthority) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"no port of SHOAL_PORTS={port}-{port} is free"):
            TlsListener(authority.issue(), host="127.0.0.1", ports=range(port, port + 1))
    listener = TlsListener(authority.issue(), host="127.0.0.1", ports=range(port, port + 1))
    assert listener.address == ("127.0.0.1", port)
    listener.close()
