"""Real inputs for the models of a server: named on the command line, or in a file beside the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from shoal.cli.shared.model_kind import is_graph
from shoal.errors import ConfigError

_SAMPLE = "sample.npz"


def parse_samples(items: Sequence[str] | None) -> dict[str, Path]:
    """`--inputs NAME=FILE`, repeated; `FILE` alone, under the name "", is for the others. Raises ConfigError."""
    found: dict[str, Path] = {}
    for item in items or ():
        name, _, file = item.rpartition("=")
        if not file or name in found:
            raise ConfigError(f"--inputs {item}: give NAME=FILE.npz once for each model, or FILE.npz for a single one")
        if not Path(file).is_file():
            raise ConfigError(f"--inputs {item}: there is no file {file}")
        found[name] = Path(file)
    return found


def sample_file(model: Path, given: Mapping[str, Path]) -> Path | None:
    """The file with real inputs for a model, None where there is none.

    Those that were given go first; then `NAME.npz` beside `NAME.onnx`; in a repository `sample.npz` in the folder of
    the version or of the model.
    """
    for found in (given.get(model_name(model)), given.get("")):
        if found is not None:
            return found
    beside = [model.with_suffix(".npz")]
    if is_in_repository(model):
        beside = [model.parent / _SAMPLE, model.parent.parent / _SAMPLE]
    return next((path for path in beside if path.is_file()), None)


def model_name(model: Path) -> str:
    """What a server calls the model of a file, unless it is told."""
    if is_in_repository(model):
        return model.parent.parent.name
    return model.stem if is_graph(model.name) else model.name


def is_in_repository(model: Path) -> bool:
    """Whether the file is one of `NAME/VERSION/model.onnx`."""
    return model.name == "model.onnx" and model.parent.name.isdecimal()
