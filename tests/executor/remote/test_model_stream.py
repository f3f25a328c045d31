"""A model on its way to a machine that lacks it: whole, resumed, refused."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from shoal.errors import CapacityError, ModelLoadError, RemoteProtocolError, WorkerLost
from shoal.executor.remote.model_identity import ModelIdentity, identify
from shoal.executor.remote.model_store import ModelStore, store_folder
from shoal.executor.remote.model_stream import receive_model, send_model
from shoal.model.formats.needed_chunks import CHUNK_BYTES
from tests.integration.leaks import no_leaks

tls = pytest.importorskip("shoal.comm.tls.tls_identity")
pytest.importorskip("cryptography")
SIZE = 3 * CHUNK_BYTES + 100
ALL = {"model.gguf": [0, 1, 2, 3]}


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / "model.gguf"
    path.write_bytes(os.urandom(SIZE))
    with no_leaks():
        yield path


def stream(path: Path, wanted: dict[str, list[int]]) -> int:
    """Bytes that had to be sent."""
    authority, totals = tls.ClusterAuthority(), [0]
    receiver = receive_model("127.0.0.1", authority.issue(), identify(path), wanted)
    send_model(path, receiver, authority.issue(), lambda done, total: totals.append(total))
    return totals[-1]


def stored(path: Path) -> Path:
    return store_folder(identify(path)) / path.name


def test_what_is_wanted_comes_and_what_is_there_stays(model: Path) -> None:
    assert stream(model, {"model.gguf": [0, 3]}) == 2 * CHUNK_BYTES
    assert stored(model).stat().st_size == SIZE
    assert stored(model).read_bytes()[:CHUNK_BYTES] == model.read_bytes()[:CHUNK_BYTES]
    assert stream(model, ALL) == 2 * CHUNK_BYTES
    assert stored(model).read_bytes() == model.read_bytes()
    assert stream(model, ALL) == 0


def test_a_damaged_chunk_comes_again(model: Path) -> None:
    stream(model, ALL)
    with stored(model).open("r+b") as file:
        file.seek(CHUNK_BYTES + 5)
        file.write(b"broken")
    assert stream(model, ALL) == CHUNK_BYTES
    assert stored(model).read_bytes() == model.read_bytes()


def test_a_transfer_that_is_cut_off_goes_on_where_it_stopped(model: Path) -> None:
    authority, seen = tls.ClusterAuthority(), [0]
    receiver = receive_model("127.0.0.1", authority.issue(), identify(model), ALL)
    with pytest.raises(WorkerLost):
        send_model(model, receiver, authority.issue(), lambda done, total: seen.append(done), lambda: len(seen) < 4)
    assert stream(model, ALL) < 4 * CHUNK_BYTES
    assert stored(model).read_bytes() == model.read_bytes()


def test_what_cannot_be_kept_is_told_to_the_sender(model: Path) -> None:
    (store_folder(identify(model))).parent.mkdir(parents=True)
    store_folder(identify(model)).write_bytes(b"a file in the place of the folder")
    with pytest.raises(ModelLoadError, match="could not keep the model: cannot write"):
        stream(model, ALL)


def test_a_full_disk_is_told_before_anything_is_sent(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stream(model, {"model.gguf": [0]})
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=2 * CHUNK_BYTES))
    complaint = r"h1 could not keep the model: 3 MB of the model must be kept in .*models, but 2 MB are free: make room"
    authority, totals = tls.ClusterAuthority(), list[int]()
    receiver = receive_model("127.0.0.1", authority.issue(), identify(model), ALL)
    with pytest.raises(ModelLoadError, match=complaint):
        send_model(model, receiver, authority.issue(), lambda done, total: totals.append(done), who="h1")
    assert not totals
    assert stream(model, {"model.gguf": [0, 1, 2]}) == 2 * CHUNK_BYTES, "what fits is kept"


def test_no_name_leads_out_of_the_store() -> None:
    for name in ("../evil", "/etc/passwd", "a/../../b"):
        with pytest.raises(RemoteProtocolError):
            ModelStore(ModelIdentity(files=((name, 1, "0"),)))


def test_a_chunk_of_the_wrong_size_is_refused(model: Path) -> None:
    store = ModelStore(identify(model))
    store.missing(ALL)
    for chunk, size in ((0, 5), (3, 101), (4, 100), (-1, CHUNK_BYTES)):
        with pytest.raises(RemoteProtocolError):
            store.write("model.gguf", chunk, memoryview(bytes(size)))
    store.folder.joinpath("model.gguf").unlink()
    with pytest.raises(CapacityError):
        store.write("model.gguf", 0, memoryview(bytes(CHUNK_BYTES)))
