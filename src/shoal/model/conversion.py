"""Conversion of a model to a GGUF file: its weights, settings, tokenizer and chat templates."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from shoal.model.adapter.files import with_adapters
from shoal.model.formats.gguf.header import GgufHeader
from shoal.model.formats.gguf.kinds import Kind
from shoal.model.formats.gguf.writing.encode import GgufPrecision
from shoal.model.formats.gguf.writing.file import Progress, add_value, write_gguf_file
from shoal.model.formats.open_weights import open_weights
from shoal.model.text.tokenizer_files import from_hf_directory
from shoal.model.text.vocabulary.from_gguf import build_from_gguf
from shoal.model.text.vocabulary.to_gguf import check_encodes_alike, tokenizer_metadata
from shoal.protocol.language_messages import AdapterFile


def convert_model(
    path: Path,
    out: Path,
    precision: GgufPrecision,
    *,
    name: str,
    adapters: Sequence[AdapterFile] = (),
    overwrite: bool = False,
    progress: Progress = lambda done, total: None,
) -> Counter[Kind]:
    """Write the model at a path from `resolve_model` as GGUF, with `adapters` merged into its weights.

    Returns the number of tensors of each kind.

    Raises:
        ModelLoadError: the model cannot be read, or GGUF has no form for its family, one of its settings or its
            tokenizer.
        ConfigError, CapacityError: see `write_gguf_file`.
    """
    source, _ = with_adapters(open_weights(path), adapters)
    tokenizer = _tokenizer(path, source.config.vocab_size) if path.is_dir() else _tokenizer_of_gguf(path)
    return write_gguf_file(
        source, out, precision, tokenizer=tokenizer, name=name, overwrite=overwrite, progress=progress
    )


def _tokenizer(directory: Path, num_rows: int) -> Mapping[str, Any]:
    """The tokenizer's metadata keys. A tokenizer is built from them once, to check that it encodes as the original
    does."""
    backend, settings = from_hf_directory(directory)
    keys = tokenizer_metadata(
        backend,
        num_rows=num_rows,
        eos_token_ids=settings.eos_token_ids,
        special_tokens=settings.special_tokens,
        chat_templates=settings.chat_templates,
    )
    with tempfile.TemporaryDirectory(prefix="shoal-tokenizer-") as folder:
        trial = Path(folder) / "tokenizer.gguf"
        _write_keys(trial, keys)
        check_encodes_alike(backend, lambda: build_from_gguf(GgufHeader(trial)))
    return keys


def _tokenizer_of_gguf(path: Path) -> Mapping[str, Any]:
    header = GgufHeader(path)
    names = [*header.metadata, *header.array_names]
    values = ((name, header.metadata.get(name, header.array(name))) for name in names if name.startswith("tokenizer."))
    return {name: value for name, value in values if value is not None and value != []}


def _write_keys(path: Path, keys: Mapping[str, Any]) -> None:
    from gguf import GGUFWriter

    writer = GGUFWriter(path, "llama")
    for key, value in keys.items():
        add_value(writer, key, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
