"""Procedures that several ranks follow together, written as generators: they yield what this rank sends and receive
what all ranks have sent. They know nothing of processes, so a test can run all ranks in one.

In every exchange the payloads of all ranks have the same length, so lengths need not be exchanged.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import TypeAlias, TypeVar

from shoal.core.collectives import ProcessGroup

T = TypeVar("T")
Procedure: TypeAlias = Generator[bytes, list[bytes], T]


def run_exchange(procedure: Procedure[T], exchange: Callable[[bytes], list[bytes]]) -> T:
    """Run the procedure to its end.

    Args:
        exchange: takes this rank's payload, returns all ranks' payloads in rank order.
    """
    try:
        payload = next(procedure)
        while True:
            payload = procedure.send(exchange(payload))
    except StopIteration as end:
        return end.value


def group_exchange(group: ProcessGroup, *, timeout_s: float) -> Callable[[bytes], list[bytes]]:
    """Exchanges over a group, each as one all-gather.

    Raises (when called): as `ProcessGroup.all_gather`.
    """

    def exchange(payload: bytes) -> list[bytes]:
        parts = [bytearray(len(payload)) for _ in range(group.size)]
        group.all_gather(payload, parts, timeout_s=timeout_s)
        return [bytes(part) for part in parts]

    return exchange


def together(procedures: Sequence[Procedure[T]]) -> Procedure[list[T]]:
    """Run several procedures side by side: each exchange carries the payloads of all that have not finished."""
    results: dict[int, T] = {}
    payloads: dict[int, bytes] = {}

    def advance(index: int, received: list[bytes] | None) -> None:
        procedure = procedures[index]
        try:
            payloads[index] = next(procedure) if received is None else procedure.send(received)
        except StopIteration as end:
            payloads.pop(index, None)
            results[index] = end.value

    for index in range(len(procedures)):
        advance(index, None)
    while payloads:
        received = yield b"".join(payloads.values())
        stop = 0
        for index, payload in list(payloads.items()):
            start, stop = stop, stop + len(payload)
            advance(index, [part[start:stop] for part in received])
    return [results[index] for index in range(len(procedures))]
