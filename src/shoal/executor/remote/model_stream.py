"""Sending parts of a model from the machine that has it to one that lacks them, over a separate link.

The receiver listens, the sender connects. The receiver lists the chunks that it lacks, the sender sends them in order,
one frame each, and the receiver confirms at the end that it has stored them.
"""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path

import msgspec

from shoal.comm.links.link import Link
from shoal.comm.links.ports import ANY_PORT
from shoal.comm.tls.tls_identity import Credentials
from shoal.comm.tls.tls_link import Address, connect_tls
from shoal.comm.tls.tls_listener import TlsListener
from shoal.errors import ModelLoadError, RemoteProtocolError, ShoalError, WorkerLost
from shoal.executor.remote.model_identity import ModelIdentity
from shoal.executor.remote.model_store import ModelStore
from shoal.model.formats.needed_chunks import CHUNK_BYTES

_KEY = "model"
_CONNECT_TIMEOUT_S = 30.0
_SILENCE_S = 60.0
"""Neither side is silent for so long: a megabyte takes a second at 10 Mbit/s, and chunks are checked locally."""


class _Answer(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """Message of the receiver: first the chunks that it lacks, later that it has stored them, or why it cannot."""

    chunks: dict[str, list[int]] = {}
    error: str = ""


def receive_model(
    host: str,
    credentials: Credentials,
    identity: ModelIdentity,
    wanted: Mapping[str, list[int]],
    ports: range = ANY_PORT,
) -> Address:
    """Listen for one `send_model`, in a thread that ends with it. Returns the address at which it listens.

    Args:
        host: the address at which to listen.
        credentials: the credentials of this process.
        identity: the model's files.
        wanted: the chunks of its files that are needed.
        ports: the ports at which it may listen.

    Raises:
        RemoteProtocolError: the identity is invalid.
    """
    store, listener = ModelStore(identity), TlsListener(credentials, host=host, ports=ports)

    def receive() -> None:
        with ExitStack() as owned, suppress(WorkerLost):
            owned.callback(listener.close)
            link = listener.take(_KEY, timeout_s=_CONNECT_TIMEOUT_S)
            owned.callback(link.close)
            try:
                _fill(store, link, dict(wanted))
            except ShoalError as error:
                _answer(link, _Answer(error=str(error) or type(error).__name__))
                while link.receive(timeout_s=_SILENCE_S) is not None:
                    pass  # wait until the sender has read the answer and closes

    threading.Thread(target=receive, name="shoal-model-receiver", daemon=True).start()
    return listener.address


def send_model(
    path: Path,
    receiver: Address,
    credentials: Credentials,
    on_progress: Callable[[int, int], None],
    is_wanted: Callable[[], bool] = lambda: True,
    *,
    who: str = "the receiver",
) -> None:
    """Send the chunks that the receiver lacks.

    Args:
        path: the model's path here.
        receiver: the address at which the receiver listens.
        credentials: the credentials of this process.
        on_progress: called with (done, total) bytes, before the first and after each chunk.
        is_wanted: called before each chunk; returns whether the model is still wanted.
        who: the receiver's name in messages.

    Raises:
        WorkerLost: the receiver is gone, or the model is no longer wanted.
        ModelLoadError: a file cannot be read here, or stored there.
    """
    root = path if path.is_dir() else path.parent
    link = connect_tls(receiver, credentials, key=_KEY, timeout_s=_CONNECT_TIMEOUT_S)
    try:
        chunks = [(name, chunk) for name, own in _hear(link, _SILENCE_S, who).chunks.items() for chunk in own]
        total = len(chunks) * CHUNK_BYTES
        on_progress(0, total)
        answers = select.poll()
        answers.register(link.fileno(), select.POLLIN)
        for count, data in enumerate(_read(root, chunks), start=1):
            if not is_wanted():
                raise WorkerLost("the model is not wanted any more")
            link.send([data], timeout_s=_SILENCE_S)
            on_progress(count * CHUNK_BYTES, total)
            if answers.poll(0):
                break  # the receiver gives up
        _hear(link, _SILENCE_S, who)
    finally:
        link.close()


def _fill(store: ModelStore, link: Link, wanted: dict[str, list[int]]) -> None:
    missing = store.missing(wanted)
    _answer(link, _Answer(chunks=missing))
    for name, chunks in missing.items():
        for chunk in chunks:
            frame = link.receive(timeout_s=_SILENCE_S)
            if frame is None:
                raise WorkerLost(f"nothing came of {name} for {_SILENCE_S:.0f} s")
            store.write(name, chunk, frame)
    _answer(link, _Answer())


def _answer(link: Link, answer: _Answer) -> None:
    link.send([msgspec.msgpack.encode(answer)], timeout_s=_SILENCE_S)


def _hear(link: Link, timeout_s: float, who: str) -> _Answer:
    """Receive an answer. Raises ModelLoadError if the receiver gives up, WorkerLost if no answer comes in time."""
    frame = link.receive(timeout_s=timeout_s)
    if frame is None:
        raise WorkerLost(f"{who} said nothing for {timeout_s:.0f} s while it was sent the model")
    try:
        answer = msgspec.msgpack.decode(frame, type=_Answer)
    except msgspec.MsgspecError as error:
        raise RemoteProtocolError(f"malformed message: {error}") from error
    if answer.error:
        raise ModelLoadError(f"{who} could not keep the model: {answer.error}")
    return answer


def _read(root: Path, chunks: list[tuple[str, int]]) -> Iterator[bytes]:
    """Read chunks, given as (file, number). Raises ModelLoadError."""
    open_files: dict[str, int] = {}
    try:
        for name, chunk in chunks:
            if name not in open_files:
                open_files[name] = os.open(root / name, os.O_RDONLY)
            yield os.pread(open_files[name], CHUNK_BYTES, chunk * CHUNK_BYTES)
    except OSError as error:
        raise ModelLoadError(f"cannot read the model: {error}") from error
    finally:
        for fd in open_files.values():
            os.close(fd)
