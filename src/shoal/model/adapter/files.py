"""The adapters of a model, as they are described to workers and opened."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from msgspec import structs

from shoal.config import user_path
from shoal.errors import ModelLoadError
from shoal.model.adapter.adapter import Adapter, open_adapter
from shoal.model.adapter.merged import MergedSource
from shoal.model.adapter.peft import CONFIG_FILE, WEIGHTS_FILE
from shoal.model.file_states import file_states, unchanged
from shoal.model.weights import WeightSource
from shoal.protocol.language_messages import AdapterFile
from shoal.protocol.worker_messages import FileState


def find_adapter(name: str, path: Path, *, is_merged: bool = False) -> AdapterFile:
    """An adapter as it is on the disk now. Raises ModelLoadError if a file is missing.

    Args:
        name: by which requests ask for it.
        path: a directory that PEFT has written, or a GGUF file.
        is_merged: whether it is merged into the model's weights.
    """
    path = user_path(path).absolute()
    if not path.exists():
        raise ModelLoadError(f"adapter {name}: there is no {path}")
    if path.is_dir() and not (path / CONFIG_FILE).exists():
        raise ModelLoadError(f"adapter {name}: {path} has no {CONFIG_FILE}; give a directory that PEFT has written")
    if path.is_dir() and not (path / WEIGHTS_FILE).exists():
        raise ModelLoadError(f"adapter {name}: {path} has no {WEIGHTS_FILE}; weights are read only from safetensors")
    return AdapterFile(name=name, path=str(path), files=_states(path), is_merged=is_merged)


def file_to_send(path: str) -> Path:
    """The file that stands for an adapter when files are sent: the GGUF file, or the settings in PEFT's directory."""
    return Path(path) / CONFIG_FILE if Path(path).is_dir() else Path(path)


def sent(adapter: AdapterFile, where: Callable[[str], str]) -> AdapterFile:
    """The same adapter on another machine, where `where` returns the path of a `file_to_send`."""
    found = Path(where(str(file_to_send(adapter.path))))
    return structs.replace(adapter, path=str(found.parent if is_peft(found) else found))


def is_peft(path: Path) -> bool:
    """Whether a `file_to_send` stands for a directory of PEFT."""
    return path.name == CONFIG_FILE


def peft_files(path: Path) -> tuple[Path, ...]:
    """All files of an adapter that PEFT has written, given its `file_to_send`."""
    return path, path.with_name(WEIGHTS_FILE)


def with_adapters(source: WeightSource, files: Sequence[AdapterFile]) -> tuple[WeightSource, list[Adapter]]:
    """The whole model's weights with merged adapters, and the adapters that requests may ask for.

    Raises:
        ModelLoadError: an adapter is broken, or belongs to another model.
        ModelChanged: an adapter has changed since it was found.
    """
    with adapters_unchanged(files):
        opened = [open_adapter(one.name, Path(one.path), source) for one in files]
    for file, adapter in zip(files, opened, strict=True):
        if file.is_merged:
            source = MergedSource(source, adapter)
    return source, [adapter for file, adapter in zip(files, opened, strict=True) if not file.is_merged]


@contextmanager
def adapters_unchanged(files: Sequence[AdapterFile]) -> Iterator[None]:
    """Check that adapters have not changed, see `unchanged`."""
    with ExitStack() as stack:
        for one in files:
            path = Path(one.path)
            stack.enter_context(unchanged(one.files, lambda path=path: _states(path)))
        yield


def _states(path: Path) -> tuple[FileState, ...]:
    if path.is_dir():
        return file_states(path, (CONFIG_FILE, WEIGHTS_FILE))
    return file_states(path.parent, (path.name,))
