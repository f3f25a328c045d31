"""Whether a model has a vision part, and its files, without importing what builds its graph."""

from __future__ import annotations

from pathlib import Path

from shoal.model.vision.projector.projector_file import projector_vision
from shoal.model.vision.vision_files import VisionFiles, directory_vision


def find_vision(path: Path, projector: Path | None = None) -> VisionFiles | None:
    """The files of a model's vision part.

    Args:
        path: of the model: a Hugging Face directory or a GGUF file.
        projector: a GGUF file with the vision part of a model in a GGUF file.

    Returns:
        None if there is no vision part that can be computed.

    Raises:
        ModelLoadError: a file is broken, or the projector is not supported.
    """
    if path.is_dir():
        return directory_vision(path)
    return None if projector is None else projector_vision(projector)
