"""Which models lie where."""

from __future__ import annotations

from pathlib import Path

import pytest

from shoal.errors import ConfigError
from shoal.inference.model_files import find_models


def put(path: Path) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return str(path)


def test_files_folders_and_repositories(tmp_path: Path) -> None:
    single = put(tmp_path / "single.onnx")
    for name in ("a.onnx", "b.v2.onnx", "notes.txt", "c/1/model.onnx", "c/10/model.onnx", "c/9/model.onnx", "d/x.onnx"):
        put(tmp_path / "folder" / name)
    found = find_models([single, str(tmp_path / "folder")])
    assert {name: (model.version, model.path.relative_to(tmp_path)) for name, model in found.items()} == {
        "single": ("1", Path("single.onnx")),
        "a": ("1", Path("folder/a.onnx")),
        "b.v2": ("1", Path("folder/b.v2.onnx")),
        "c": ("10", Path("folder/c/10/model.onnx")),
    }


def test_a_name_for_the_only_model(tmp_path: Path) -> None:
    path = put(tmp_path / "model.onnx")
    assert find_models([path], "encoder")["encoder"].path == Path(path)
    with pytest.raises(ConfigError, match="--name encoder is for one model, but there are 2: model, other"):
        find_models([path, put(tmp_path / "other.onnx")], "encoder")


def test_places_that_mean_nothing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="contains no model"):
        find_models([str(tmp_path)])
    path = put(tmp_path / "model.onnx")
    with pytest.raises(ConfigError, match="have the same name"):
        find_models([path, put(tmp_path / "elsewhere" / "model.onnx")])
