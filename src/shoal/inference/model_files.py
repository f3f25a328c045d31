"""The available models: files by name, in the places that the user gave."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from shoal.errors import ConfigError

SUFFIX = ".onnx"
_FIRST_VERSION = "1"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFile:
    """An ONNX file with the name and version that clients use."""

    name: str
    version: str
    path: Path


def find_models(places: Sequence[str], name: str | None = None) -> dict[str, ModelFile]:
    """Find the models at paths of files and folders, by name.

    A folder contains files `NAME.onnx`, or a model repository in Triton's layout, `NAME/VERSION/model.onnx`, of which
    the highest version is used.

    Args:
        places: paths of files and folders.
        name: the name of the model if there is only one; None: the file's name without its suffix.

    Raises:
        ConfigError: a place contains no model, two models have the same name, or a name is given for several.
    """
    found: dict[str, ModelFile] = {}
    for place in places:
        for model in _models_at(Path(place)):
            if model.name in found:
                raise ConfigError(f"{found[model.name].path} and {model.path} have the same name: rename one of them")
            found[model.name] = model
    return found if name is None else _renamed(found, name)


def named_models(paths: Mapping[str, Path]) -> dict[str, ModelFile]:
    """Models with names other than those of their files: the graphs of encoders, which are named by their folders."""
    return {name: ModelFile(name=name, version=_FIRST_VERSION, path=path) for name, path in paths.items()}


def _models_at(place: Path) -> list[ModelFile]:
    if not place.is_dir():
        return [_model_of_file(place)]
    files = [_model_of_file(path) for path in sorted(place.glob(f"*{SUFFIX}"))]
    versioned = [model for folder in sorted(place.iterdir()) if (model := _latest_version(folder)) is not None]
    if not files and not versioned:
        raise ConfigError(f"{place} contains no model: expected NAME{SUFFIX} or NAME/1/model{SUFFIX} in it")
    return files + versioned


def _model_of_file(path: Path) -> ModelFile:
    name = path.name.removesuffix(SUFFIX)
    return ModelFile(name=name, version=_FIRST_VERSION, path=path)


def _latest_version(folder: Path) -> ModelFile | None:
    files = folder.glob(f"*/model{SUFFIX}")
    versions = {int(path.parent.name): path for path in files if path.parent.name.isdecimal()}
    if not versions:
        return None
    latest = max(versions)
    return ModelFile(name=folder.name, version=str(latest), path=versions[latest])


def _renamed(found: Mapping[str, ModelFile], name: str) -> dict[str, ModelFile]:
    if len(found) != 1:
        raise ConfigError(f"--name {name} is for one model, but there are {len(found)}: {', '.join(found) or 'none'}")
    (model,) = found.values()
    return {name: ModelFile(name=name, version=model.version, path=model.path)}
