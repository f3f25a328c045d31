"""Which file holds real inputs for a model of a server."""

from pathlib import Path

import pytest

from shoal.cli.graphs.samples import parse_samples, sample_file
from shoal.errors import ConfigError


def put(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def test_what_was_named_goes_before_what_lies_beside_the_model(tmp_path: Path) -> None:
    model, beside, own = tmp_path / "encoder.onnx", put(tmp_path / "encoder.npz"), put(tmp_path / "own.npz")
    assert sample_file(model, {}) == beside
    assert sample_file(model, parse_samples([f"encoder={own}"])) == own
    assert sample_file(model, parse_samples([f"other={own}"])) == beside
    assert sample_file(model, parse_samples([str(own)])) == own


def test_in_a_repository_the_version_goes_before_the_model(tmp_path: Path) -> None:
    model = tmp_path / "encoder" / "2" / "model.onnx"
    assert sample_file(model, {}) is None
    of_model = put(tmp_path / "encoder" / "sample.npz")
    assert sample_file(model, {}) == of_model
    assert sample_file(model, {"encoder": tmp_path}) == tmp_path
    of_version = put(tmp_path / "encoder" / "2" / "sample.npz")
    assert sample_file(model, {}) == of_version


def test_files_that_are_not_there_and_names_given_twice_are_refused(tmp_path: Path) -> None:
    file = put(tmp_path / "a.npz")
    with pytest.raises(ConfigError, match="there is no file"):
        parse_samples(["encoder=missing.npz"])
    with pytest.raises(ConfigError, match="once for each model"):
        parse_samples([f"encoder={file}", f"encoder={file}"])
