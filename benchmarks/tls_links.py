"""Ping-pong of frames between two processes over the loopback: a TLS link beside a plain TCP one.

`python benchmarks/tls_links.py`; `--rounds 5` changes the run. Every round measures both in turn, in the same
processes, so that a ratio compares runs of the same minutes. Each process is pinned to a core of its own.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import socket
import ssl
import statistics
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager

from report import write_result

from shoal.comm.links.link import Link
from shoal.comm.links.socket_link import SocketLink
from shoal.comm.tls.tls_identity import ClusterAuthority, Credentials
from shoal.comm.tls.tls_link import Address, connect_tls_socket
from shoal.comm.tls.tls_listener import TlsListener

_FRAMES = {4 << 10: 400, 64 << 10: 400, 1 << 20: 60}
"""Round trips a round, by size"""
_WARM_UP = 20
_TARGET = {64 << 10: 1.5}
"""TLS over plain, at most"""
_TIMEOUT_S = 60.0
_PLAIN, _TLS = "plain", "TLS"
Key = tuple[str, int]
"""(link, bytes)"""


def main() -> None:
    """Measure, print and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=5)
    rounds: int = parser.parse_args().rounds
    samples, cipher = _measure(rounds)
    lines = [*_table(samples), "", f"cipher: {cipher}; {ssl.OPENSSL_VERSION}"]
    print("\n".join(lines))
    print(write_result("tls-links", lines, command=f"python benchmarks/tls_links.py --rounds {rounds}"))


def _measure(rounds: int) -> tuple[dict[Key, list[float]], str]:
    """Seconds of half a round trip, a round's median each, and the cipher."""
    authority = ClusterAuthority()
    context = multiprocessing.get_context("fork")
    receiving, sending = context.Pipe(duplex=False)
    echo = context.Process(target=_echo, args=(rounds, authority.issue(), sending), daemon=True)
    echo.start()
    sending.close()
    try:
        plain_address, tls_address = receiving.recv()
        with _connected(plain_address, tls_address, authority.issue()) as (links, cipher), _pinned(0):
            samples: dict[Key, list[float]] = {(name, size): [] for size in _FRAMES for name in links}
            for _ in range(rounds):
                for name, num_bytes in samples:
                    samples[name, num_bytes].append(_ping(links[name], num_bytes))
        return samples, cipher
    finally:
        receiving.close()
        echo.join(_TIMEOUT_S)


@contextmanager
def _connected(plain_address: Address, tls_address: Address, credentials: Credentials):
    with ExitStack() as stack:
        plain = SocketLink(socket.create_connection(plain_address, timeout=_TIMEOUT_S))
        stack.callback(plain.close)
        sock = connect_tls_socket(tls_address, credentials, key="benchmark", timeout_s=_TIMEOUT_S)
        stack.callback(sock.close)
        yield {_PLAIN: plain, _TLS: SocketLink(sock)}, f"{sock.version()}, {sock.cipher()[0]}"


def _ping(link: Link, num_bytes: int) -> float:
    frame, took_s = bytes(num_bytes), []
    for _ in range(_WARM_UP + _FRAMES[num_bytes]):
        started_s = time.perf_counter()
        link.send([frame], timeout_s=_TIMEOUT_S)
        _next(link)
        took_s.append((time.perf_counter() - started_s) / 2)
    return statistics.median(took_s[_WARM_UP:])


def _echo(rounds: int, credentials: Credentials, sending) -> None:
    """The other process: send every frame back."""
    with ExitStack() as stack:
        plain_listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        tls_listener = TlsListener(credentials, host="127.0.0.1")
        stack.callback(tls_listener.close)
        sending.send((plain_listener.getsockname(), tls_listener.address))
        links: Mapping[str, Link] = {
            _PLAIN: SocketLink(plain_listener.accept()[0]),
            _TLS: tls_listener.take("benchmark", timeout_s=_TIMEOUT_S),
        }
        for link in links.values():
            stack.callback(link.close)
        stack.enter_context(_pinned(1))
        for _ in range(rounds):
            for count in _FRAMES.values():
                for link in links.values():
                    for _ in range(_WARM_UP + count):
                        link.send([_next(link)], timeout_s=_TIMEOUT_S)


def _next(link: Link) -> memoryview:
    frame = link.receive(timeout_s=_TIMEOUT_S)
    if frame is None:
        raise SystemExit("the other process does not answer")
    return frame


@contextmanager
def _pinned(index: int) -> Iterator[None]:
    """This process on one core while the block runs."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[index % len(cores)]})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


def _table(samples: Mapping[Key, list[float]]) -> list[str]:
    lines = [
        "| bytes | plain, us a hop | TLS, us a hop | TLS over plain (median) | lowest to highest | target |",
        "|---" * 6 + "|",
    ]
    for num_bytes in _FRAMES:
        plain, tls = samples[_PLAIN, num_bytes], samples[_TLS, num_bytes]
        ratios = [above / below for above, below in zip(tls, plain, strict=True)]
        median, target = statistics.median(ratios), _TARGET.get(num_bytes)
        goal = "-" if target is None else f"at most {target:g}: {'reached' if median <= target else 'missed'}"
        times = " | ".join(f"{statistics.median(times_s) * 1e6:.1f}" for times_s in (plain, tls))
        lines.append(f"| {num_bytes} | {times} | {median:.2f} | {min(ratios):.2f} to {max(ratios):.2f} | {goal} |")
    return lines


if __name__ == "__main__":
    main()
