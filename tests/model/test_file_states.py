"""What counts as another file: replaced, written to in place, cut off; and what does not."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from shoal.errors import ModelChanged, ModelLoadError
from shoal.executor.remote.model_identity import identify
from shoal.model.file_states import model_files, model_states, unchanged


def write_folder(folder: Path) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model-00001-of-00002.safetensors").write_bytes(b"a" * 100)
    (folder / "model-00002-of-00002.safetensors").write_bytes(b"b" * 100)
    (folder / "model.safetensors.index.json").write_text("{}")
    (folder / "README.md").write_text("about it")
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "model")


def replace_with_an_equal_file(path: Path) -> None:
    """Same size, same time, same first bytes: another inode."""
    status, other = path.stat(), path.with_name("other")
    other.write_bytes(path.read_bytes())
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    other.replace(path)


def write_in_place(path: Path) -> None:
    """Same inode, same size, and the time put back, as rsync --inplace --times does."""
    status = path.stat()
    with path.open("r+b") as file:
        file.write(b"X")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def touch(path: Path) -> None:
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))


def cut_off(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


CHANGES = (replace_with_an_equal_file, write_in_place, touch, cut_off, Path.unlink)
Change = Callable[[Path], object]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", ["config.json", "model-00002-of-00002.safetensors", "model.safetensors.index.json"])
def test_every_file_that_is_read_counts(change: Change, name: str, folder: Path) -> None:
    states = model_states(folder)
    change(folder / name)
    with (
        pytest.raises(ModelChanged, match=r"has changed since the server started; start it again") as raised,
        unchanged(states, lambda: model_states(folder)),
    ):
        pytest.fail("what has changed must not be read")
    assert name in str(raised.value)


@pytest.mark.parametrize("change", CHANGES)
def test_a_file_that_changes_while_it_is_read_counts(change: Change, folder: Path) -> None:
    states = model_states(folder)
    with pytest.raises(ModelChanged), unchanged(states, lambda: model_states(folder)):
        change(folder / "model-00001-of-00002.safetensors")


def test_a_file_more_counts_and_what_is_not_read_does_not(folder: Path) -> None:
    states = model_states(folder)
    (folder / "README.md").write_text("more about it")
    (folder / "tokenizer.json").write_text("{}")
    with unchanged(states, lambda: model_states(folder)):
        pass
    (folder / "model.safetensors").write_bytes(b"")
    with pytest.raises(ModelChanged, match=r"model\.safetensors"), unchanged(states, lambda: model_states(folder)):
        pass


def test_parts_of_a_split_gguf_belong_together(tmp_path: Path) -> None:
    names = [f"m-0000{part}-of-00002.gguf" for part in (1, 2)]
    for name in (*names, "m-00001-of-00003.gguf", "m.gguf"):
        (tmp_path / name).write_bytes(b"GGUF")
    assert [path.name for path in model_files(tmp_path / names[0])] == names
    assert [path.name for path in model_files(tmp_path / "m.gguf")] == ["m.gguf"]


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match=r"nowhere\.gguf.*No such file"):
        model_states(tmp_path / "nowhere.gguf")


def test_a_kept_checksum_is_of_one_state(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Machines compare content; that a file of the same size and time is another one must not be missed."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    before = identify(folder)
    assert identify(folder) == before
    write_in_place(folder / "model-00001-of-00002.safetensors")
    assert identify(folder) != before
