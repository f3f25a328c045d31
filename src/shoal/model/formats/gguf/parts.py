"""A model in one GGUF file, or in the numbered parts that llama.cpp's gguf-split makes of it.

Source of the names and keys: llama.cpp, tools/gguf-split. The first part has all metadata; tensors lie in any part.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from shoal.arrays import U8
from shoal.errors import ModelLoadError
from shoal.model.formats.gguf.header import GgufHeader, TensorInfo

_PART_NAME = re.compile(r"(?P<stem>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.DOTALL)


def part_paths(path: Path) -> list[Path]:
    """All files of the model whose first file is `path`, from the file's name: this file alone, unless it is the first
    part.

    Raises:
        ModelLoadError: it is a later part.
    """
    named = _PART_NAME.fullmatch(path.name)
    if named is None:
        return [path]
    count = int(named["count"])
    if int(named["number"]) != 1:
        first = f"{named['stem']}-00001-of-{named['count']}.gguf"
        raise ModelLoadError(f"{path} is one of {count} parts; give the first one, {first}")
    return [path.with_name(f"{named['stem']}-{number:05}-of-{named['count']}.gguf") for number in range(1, count + 1)]


class GgufParts:
    """The headers of a model's files as if they were one.

    Raises:
        ModelLoadError: a file is broken or missing, or the files do not belong together.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._first = GgufHeader(path)
        self.metadata: dict[str, Any] = self._first.metadata
        """Scalars and strings of the first file by key; arrays are read with `array`."""
        self.tensors: dict[str, TensorInfo] = {}
        """Tensors of all files by name."""
        self._owners: dict[str, GgufHeader] = {}
        for header in (self._first, *self._other_headers()):
            for name in header.tensors:
                if name in self._owners:
                    raise ModelLoadError(f"{header.path}: the tensor {name!r} is in another part, too")
                self._owners[name] = header
            self.tensors |= header.tensors
        self._check_count()

    def array(self, key: str) -> list[Any] | None:
        """An array of the metadata, decoded now; None if the first file has no such array."""
        return self._first.array(key)

    def rows(self, name: str, start: int = 0, stop: int | None = None) -> U8:
        """See `GgufHeader.rows`."""
        return self._owners[name].rows(name, start, stop)

    def release_pages(self) -> None:
        """See `WeightSource.release_pages`."""
        for header in {*self._owners.values()}:
            header.release_pages()

    def _other_headers(self) -> list[GgufHeader]:
        count = self.metadata.get("split.count", 0)
        if type(count) is not int or count <= 1:
            return []
        paths = part_paths(self.path)
        if len(paths) != count:
            raise ModelLoadError(
                f"{self.path} is the first of {count} parts, so its name must be NAME-00001-of-{count:05}.gguf"
            )
        missing = [path.name for path in paths if not path.exists()]
        if missing:
            raise ModelLoadError(f"{self.path.parent / missing[0]} is missing, a part of {self.path.name}; download it")
        headers = [GgufHeader(path) for path in paths[1:]]
        for number, header in enumerate(headers, start=1):
            if (header.metadata.get("split.count"), header.metadata.get("split.no")) != (count, number):
                raise ModelLoadError(f"{header.path} does not say that it is part {number + 1} of {count}")
        return headers

    def _check_count(self) -> None:
        wanted = self.metadata.get("split.tensors.count")
        if self.metadata.get("split.count", 0) and wanted is not None and wanted != len(self._owners):
            raise ModelLoadError(f"{self.path}: its parts hold {len(self._owners)} tensors, not {wanted}")
