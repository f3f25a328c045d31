"""A chain over the files of a folder: what cannot be written is a failure of one file."""

from __future__ import annotations

import json
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from shoal.offline.chain_map import ChainMap
from shoal.offline.work import Failure


def test_what_json_cannot_hold_fails_one_file_alone(tmp_path: Path) -> None:
    photos, failures = tmp_path / "photos", list[Failure]()
    photos.mkdir()
    for name, content in (("a", b"1"), ("b", b"1j"), ("c", b"3")):
        (photos / name).write_bytes(content)

    def submit(content: bytes) -> Future[dict[str, Any]]:
        done: Future[dict[str, Any]] = Future()
        done.set_result({"y": complex(content.decode()) if b"j" in content else int(content)})
        return done

    job = ChainMap(inputs=photos, output=tmp_path / "out", identity="a chain")
    summary = job.run(submit, lambda done, total: None, failures.append)
    assert (summary.num_done, summary.num_failed) == (2, 1)
    assert [failure.name for failure in failures] == ["b"]
    assert "cannot be written as JSON" in failures[0].reason
    assert {path.name: json.loads(path.read_text()) for path in (tmp_path / "out").glob("*.json")} == {
        "a.json": {"y": 1},
        "c.json": {"y": 3},
    }
