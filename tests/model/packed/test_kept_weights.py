"""Weights are packed once, and whatever is wrong with where they are kept costs time and nothing else."""

from __future__ import annotations

import fcntl
import logging
import multiprocessing
import os
import resource
import signal
from pathlib import Path

import numpy as np
import pytest

from shoal.errors import ModelLoadError
from shoal.model.attention.paged_attention import native_available
from shoal.model.file_states import change_times, model_states
from shoal.model.packed import kept_weights
from shoal.model.packed.kept_weights import KeptWeights
from tests.model.packed.kept_cases import (
    ARRANGEMENT,
    CONTENT,
    NUM_BYTES,
    Counted,
    fill,
    kept_in,
    must_not_pack,
    states,
)

pytestmark = pytest.mark.skipif(not native_available(), reason="the native extension is not built")
is_root = os.geteuid() == 0


def weights_of(kept: KeptWeights, pack=fill, unit: str = "layer-0") -> np.ndarray:
    from shoal._native import ThreadPool

    weights = kept.weights(unit, ARRANGEMENT, pack, ThreadPool(1))
    np.testing.assert_array_equal(weights, CONTENT)
    return weights


def test_packed_once(tmp_path: Path) -> None:
    first = weights_of(kept_in(tmp_path))
    second = weights_of(kept_in(tmp_path), must_not_pack)
    assert not first.flags.writeable
    assert not second.flags.writeable
    assert len(list(kept_in(tmp_path).folder.glob("*.packed"))) == 1


def test_units_are_kept_apart(tmp_path: Path) -> None:
    weights_of(kept_in(tmp_path))
    pack = Counted()
    weights_of(kept_in(tmp_path), pack, "layer-1")
    assert pack.count == 1


def test_a_changed_model_is_packed_again(tmp_path: Path) -> None:
    weights_of(kept_in(tmp_path))
    pack = Counted()
    weights_of(kept_in(tmp_path, mtime_ns=2), pack)
    assert pack.count == 1


def _edit_in_place(path: Path) -> None:
    """One byte in the middle, and then the file says that it was last written when it was before."""
    before = path.stat()
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        file.write(b"\x55")
    while path.stat().st_ctime_ns == before.st_ctime_ns or path.stat().st_mtime_ns != before.st_mtime_ns:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("while_packing", [False, True])
def test_a_model_that_is_edited_in_place_and_dated_back_is_packed_again(tmp_path: Path, while_packing: bool) -> None:
    model = tmp_path / "model.gguf"
    model.write_bytes(bytes(1 << 20))
    states_before, root = model_states(model), tmp_path / "kept"

    def kept() -> KeptWeights:
        look, times = (lambda: model_states(model)), (lambda: change_times(model))
        return KeptWeights(root, look, "auto", look_at_times=times, max_bytes=1 << 30)

    weights_of(kept(), Counted(then=lambda: _edit_in_place(model)) if while_packing else fill)
    if not while_packing:
        weights_of(kept(), must_not_pack)
        _edit_in_place(model)
    assert model_states(model) == states_before
    pack = Counted()
    weights_of(kept(), pack)
    assert pack.count == 1
    weights_of(kept(), must_not_pack)


@pytest.mark.parametrize("states_now", [states(mtime_ns=2), None], ids=["changed", "gone"])
def test_weights_of_a_file_that_changes_meanwhile_are_not_kept(tmp_path: Path, states_now) -> None:
    def look():
        if states_now is None:
            raise ModelLoadError("the file is gone")
        return states_now

    weights_of(KeptWeights(tmp_path, look, "auto", states=states(), max_bytes=1 << 30))
    pack = Counted()
    weights_of(kept_in(tmp_path), pack)
    assert pack.count == 1


@pytest.mark.parametrize("damage", ["truncated", "flipped", "emptied"])
def test_a_damaged_file_is_made_again(tmp_path: Path, damage: str) -> None:
    kept = kept_in(tmp_path)
    weights_of(kept)
    (path,) = kept.folder.glob("*.packed")
    data = bytearray(path.read_bytes())
    data[-100] ^= 4
    path.write_bytes({"truncated": bytes(data[:-1000]), "flipped": bytes(data), "emptied": b""}[damage])
    pack = Counted()
    weights_of(kept_in(tmp_path), pack)
    assert pack.count == 1
    weights_of(kept_in(tmp_path), must_not_pack)


def test_evicted_weights_stay_with_who_uses_them(tmp_path: Path) -> None:
    weights = weights_of(kept_in(tmp_path))
    weights_of(kept_in(tmp_path, mtime_ns=2, max_bytes=NUM_BYTES + 10_000))
    assert not kept_in(tmp_path).folder.exists()
    np.testing.assert_array_equal(weights, CONTENT)


def test_no_room_is_no_error(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="shoal")
    kept = kept_in(tmp_path, max_bytes=NUM_BYTES)  # but not for the header
    for unit in ("layer-0", "layer-1", "layer-2"):
        weights_of(kept, unit=unit)
    assert len(caplog.records) == 1
    assert "no room" in caplog.text
    assert not list(tmp_path.glob("*/*.packed"))


def test_a_root_that_cannot_be_is_no_error(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="shoal")
    (tmp_path / "file").touch()
    kept = kept_in(tmp_path / "file" / "weights")
    for unit in ("layer-0", "layer-1"):
        weights_of(kept, unit=unit)
    assert len(caplog.records) == 1


@pytest.mark.skipif(is_root, reason="root may write everywhere")
def test_a_folder_that_is_only_read_is_used(tmp_path: Path) -> None:
    weights_of(kept_in(tmp_path))
    folder = kept_in(tmp_path).folder
    folder.chmod(0o500)
    try:
        weights_of(kept_in(tmp_path), must_not_pack)
        weights_of(kept_in(tmp_path), Counted(), "layer-1")
    finally:
        folder.chmod(0o700)


def _with_full_disk(root: Path) -> None:
    limit = NUM_BYTES // 2
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    weights_of(kept_in(root))


def test_a_full_disk_is_no_error(tmp_path: Path) -> None:
    """Where no file may be longer than half of what is to be kept."""
    assert _in_process(_with_full_disk, tmp_path) == 0
    assert not [path for path in tmp_path.glob("*/*") if path.suffix != ".lock"]
    pack = Counted()
    weights_of(kept_in(tmp_path), pack)
    assert pack.count == 1


def _dies_while_packing(root: Path) -> None:
    weights_of(kept_in(root), Counted(then=lambda: os.kill(os.getpid(), signal.SIGKILL)))


def test_who_dies_while_packing_holds_nobody_up(tmp_path: Path) -> None:
    assert _in_process(_dies_while_packing, tmp_path) == -signal.SIGKILL
    weights_of(kept_in(tmp_path))
    weights_of(kept_in(tmp_path), must_not_pack)


def test_who_hangs_while_packing_holds_nobody_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others pack the same for themselves, and keep what nobody is packing."""
    monkeypatch.setattr(kept_weights, "_LOCK_WAIT_S", 0.02)
    folder = kept_in(tmp_path).folder
    folder.mkdir(parents=True)
    kept = kept_in(tmp_path)
    with (folder / "layer-0.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        weights_of(kept)
        weights_of(kept, unit="layer-1")
    assert [path.name for path in folder.glob("*.packed")] == ["layer-1.packed"]
    weights_of(kept)
    weights_of(kept_in(tmp_path), must_not_pack)


def test_a_lock_that_is_a_link_leads_nowhere(tmp_path: Path) -> None:
    folder = kept_in(tmp_path).folder
    folder.mkdir(parents=True)
    (folder / "layer-0.lock").symlink_to(tmp_path / "elsewhere")
    weights_of(kept_in(tmp_path))
    assert not (tmp_path / "elsewhere").exists()


def _pack_together(root: Path, barrier, packed) -> None:
    def pack(memory) -> None:
        with packed.get_lock():
            packed.value += 1
        fill(memory)

    barrier.wait()
    for layer in range(5):
        weights_of(kept_in(root), pack, f"layer-{layer}")


def test_several_workers_pack_once(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    barrier, packed = spawn.Barrier(3), spawn.Value("i", 0)
    workers = [spawn.Process(target=_pack_together, args=(tmp_path, barrier, packed)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert packed.value == 5


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="reads /proc")
def test_the_pages_are_the_files(tmp_path: Path) -> None:
    """Mapped to be shared and only read, so that the computer holds them once."""
    weights = weights_of(kept_in(tmp_path))
    (path,) = kept_in(tmp_path).folder.glob("*.packed")
    lines = [line.split() for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith(str(path))]
    assert [(fields[1], int(fields[4])) for fields in lines] == [("r--s", path.stat().st_ino)]
    assert weights.nbytes == NUM_BYTES


def _in_process(target, *args) -> int | None:
    process = multiprocessing.get_context("spawn").Process(target=target, args=args)
    process.start()
    process.join()
    return process.exitcode
