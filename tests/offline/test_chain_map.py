"""A chain over the files of a folder: what cannot be written is a failure of one file."""

from __future__ import annotations

import json
import os
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from shoal.offline.chain_map import ChainMap
from shoal.offline.work import Failure


def finished(value: object) -> Future[dict[str, Any]]:
    done: Future[dict[str, Any]] = Future()
    done.set_result({"y": value})
    return done


def test_what_json_cannot_hold_fails_one_file_alone(tmp_path: Path) -> None:
    photos, failures = tmp_path / "photos", list[Failure]()
    photos.mkdir()
    for name, content in (("a", b"1"), ("b", b"1j"), ("c", b"3")):
        (photos / name).write_bytes(content)

    def submit(content: bytes) -> Future[dict[str, Any]]:
        return finished(complex(content.decode()) if b"j" in content else int(content))

    job = ChainMap(inputs=photos, output=tmp_path / "out", identity="a chain")
    summary = job.run(submit, lambda done, total: None, failures.append)
    assert (summary.num_done, summary.num_failed) == (2, 1)
    assert [failure.name for failure in failures] == ["b"]
    assert "cannot be written as JSON" in failures[0].reason
    assert {path.name: json.loads(path.read_text()) for path in (tmp_path / "out").glob("*.json")} == {
        "a.json": {"y": 1},
        "c.json": {"y": 3},
    }


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    photos, output = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    file = photos / os.fsdecode(b"caf\xe9.png")
    file.write_bytes(b"1")
    for is_resumed in (False, True):
        job = ChainMap(inputs=photos, output=output, identity="a chain", resume=is_resumed)
        summary = job.run(lambda content: finished(int(content)), lambda done, total: None, lambda failure: None)
        assert (summary.num_done, summary.num_done_before) == ((0, 1) if is_resumed else (1, 0))
    assert json.loads((output / os.fsdecode(b"caf\xe9.png.json")).read_text()) == {"y": 1}


def test_files_that_change_while_they_are_computed_are_computed_again(tmp_path: Path) -> None:
    """And one that is gone by then was computed all the same."""
    photos, output = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    (photos / "a").write_bytes(b"1")
    (photos / "b").write_bytes(b"5")

    def submit(content: bytes) -> Future[dict[str, Any]]:
        if content == b"1":
            (photos / "a").write_bytes(b"2")
        else:
            (photos / "b").unlink()
        return finished(int(content))

    for num_done in (2, 1):
        job = ChainMap(inputs=photos, output=output, identity="a chain", resume=num_done == 1)
        summary = job.run(submit, lambda done, total: None, lambda failure: None)
        assert (summary.num_done, summary.num_failed) == (num_done, 0)
        submit = lambda content: finished(int(content))  # noqa: E731
    assert json.loads((output / "a.json").read_text()) == {"y": 2}
