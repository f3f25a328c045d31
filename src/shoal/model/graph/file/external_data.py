"""Weights in separate files, and where these really lie.

ONNX Runtime reads external data from the folder of the file's name and from the folder where the file really lies,
which differ if names are links (as in the cache of huggingface_hub). A stage is loaded from memory, where ONNX Runtime
knows only one folder, so names in an opened model point to files behind all links.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import onnx
from onnx.external_data_helper import ExternalDataInfo, uses_external_data

from shoal.errors import ModelLoadError
from shoal.model.graph.file.weight_tensors import all_tensors, num_bytes

_LOCATION = "location"


@dataclass(frozen=True, slots=True, kw_only=True)
class ExternalData:
    """Files that belong to a model."""

    folder: Path
    """Folder that names in the opened model are relative to."""
    names: frozenset[str]
    """Names in the file, relative to the folder in which the file is named."""


def settle_external_data(model: onnx.ModelProto, path: Path) -> ExternalData:
    """Check that every external tensor's file exists and is long enough, without reading any.

    Mutates: names in `model` that lead through links.

    Args:
        model: from the file.
        path: of the file.

    Raises:
        ModelLoadError: a name or number is invalid, or a file is missing, too short or outside the model's folder.
    """
    tensors = [(tensor, _info(tensor)) for tensor in all_tensors(model) if uses_external_data(tensor)]
    places = {location: _place(location, path, tensor.name) for tensor, (location, _, _) in tensors}
    for tensor, (location, offset, length) in tensors:
        _check_length(tensor, places[location], offset + (length or num_bytes(tensor)))
    home = path.parent.resolve()
    names = frozenset(places)
    if all(place == home / location for location, place in places.items()):
        return ExternalData(folder=path.parent, names=names)
    folder = Path(os.path.commonpath([place.parent for place in places.values()]))
    for tensor, (location, _, _) in tensors:
        entry = next(entry for entry in tensor.external_data if entry.key == _LOCATION)
        entry.value = places[location].relative_to(folder).as_posix()
    return ExternalData(folder=folder, names=names)


def _info(tensor: onnx.TensorProto) -> tuple[str, int, int]:
    """Location, offset and length; 0 for a number that is not given."""
    try:
        info = ExternalDataInfo(tensor)
    except ValueError as error:
        raise ModelLoadError(f"weight {tensor.name!r}: {error}") from None
    if not info.location or "\0" in info.location:
        raise ModelLoadError(f"weight {tensor.name!r} refers to the file {info.location!r}, which is not a file name")
    return info.location, info.offset or 0, info.length or 0


def _place(location: str, path: Path, weight: str) -> Path:
    """The path of the file, with all links resolved."""
    name = PurePosixPath(location)
    outside = f"weight {weight!r} lies at {location!r}, outside the model's folder; put it beside the model"
    if name.is_absolute() or ".." in name.parts:
        raise ModelLoadError(outside)
    try:
        place = (path.parent / name).resolve(strict=True)
        is_regular = stat.S_ISREG(place.stat().st_mode)
    except (OSError, RuntimeError):  # a cycle of links raises RuntimeError
        raise ModelLoadError(
            f"the model keeps its weights in {location!r}, which is missing; put that file into {str(path.parent)!r}"
        ) from None
    if not _is_in(place, (path.parent.resolve(), path.resolve().parent)):
        raise ModelLoadError(f"{outside} (it is a link to {str(place)!r})")
    if not is_regular:
        raise ModelLoadError(f"the model keeps its weights in {location!r}, which is not a regular file")
    return place


def _is_in(place: Path, folders: Iterable[Path]) -> bool:
    return any(place.is_relative_to(folder) for folder in folders)


def _check_length(tensor: onnx.TensorProto, place: Path, end: int) -> None:
    size_bytes = place.stat().st_size
    if size_bytes < end:
        raise ModelLoadError(
            f"{str(place)!r} has {size_bytes:,} bytes, but weight {tensor.name!r} ends at byte {end:,}; the "
            "file is truncated: copy or export it again"
        )
