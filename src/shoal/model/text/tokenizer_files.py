"""Where a tokenizer comes from: a Hugging Face directory, or a GGUF file's metadata through a cache on disk."""

from __future__ import annotations

import tempfile
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Backend

from shoal.errors import ModelLoadError
from shoal.model.formats.gguf_config import eos_token_ids_from_gguf
from shoal.model.formats.gguf_header import GgufHeader
from shoal.model.formats.hf_config import eos_token_ids_from_hf, read_json
from shoal.model.text.gguf_bpe import build_byte_level_bpe, knows

CACHE_VERSION = 1
"""part of every cache key; raise it when a tokenizer is built differently"""
TURN_ENDS = ("<|im_end|>", "<|eot_id|>", "<|end|>", "<end_of_turn>", "<|eom_id|>")
"""Tokens that end an assistant's turn. Many GGUF files name only the end of text as EOS."""
SPECIAL_NAMES = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
"""name in a chat template -> part of the GGUF key"""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizerSettings:
    """What a tokenizer needs beside its tokenizer.json."""

    eos_token_ids: tuple[int, ...]
    chat_templates: dict[str, str] = field(default_factory=dict)
    """by name: `default`, and `tool_use` where the model has one of its own for tools"""
    special_tokens: dict[str, str] = field(default_factory=dict)
    """bos_token, eos_token, ... for the chat template"""


def from_hf_directory(directory: Path) -> tuple[Backend, TokenizerSettings]:
    """The tokenizer of a Hugging Face directory. Raises ModelLoadError."""
    path = directory / "tokenizer.json"
    if not path.exists():
        raise ModelLoadError(f"{directory} has no tokenizer.json; save its tokenizer with transformers first")
    backend = _read_backend(path)
    config_path = directory / "tokenizer_config.json"
    config = read_json(config_path) if config_path.exists() else {}
    special = {name: _content(config[name]) for name in SPECIAL_NAMES if config.get(name)}
    eos = {*eos_token_ids_from_hf(directory), backend.token_to_id(special.get("eos_token", ""))} - {None}
    settings = TokenizerSettings(
        eos_token_ids=tuple(sorted(eos)), chat_templates=_hf_templates(directory, config), special_tokens=special
    )
    return backend, settings


def from_gguf(path: Path, cache_root: Path) -> tuple[Backend, TokenizerSettings]:
    """The tokenizer of a GGUF file, kept under `cache_root`; a broken cache entry is built again.

    Raises:
        ModelLoadError: the file is broken, or holds no tokenizer that can be built.
    """
    header = GgufHeader(path)
    entry = cache_root / f"v{CACHE_VERSION}-{header.digest()[:32]}.json"
    backend = _cached(entry)
    if backend is None:
        backend = build_byte_level_bpe(header) if knows(header) else _through_transformers(path)
        _store(entry, backend)
    return backend, _gguf_settings(header, backend)


def _gguf_settings(header: GgufHeader, backend: Backend) -> TokenizerSettings:
    metadata = header.metadata
    ids = {name: metadata.get(f"tokenizer.ggml.{part}_token_id") for name, part in SPECIAL_NAMES.items()}
    texts = {name: backend.id_to_token(token) for name, token in ids.items() if token is not None}
    keys = {"default": "tokenizer.chat_template", "tool_use": "tokenizer.chat_template.tool_use"}
    templates = {name: metadata[key] for name, key in keys.items() if key in metadata}
    ends = [backend.token_to_id(end) for end in TURN_ENDS if end in templates.get("default", "")]
    eos = {*eos_token_ids_from_gguf(header), *(token for token in ends if token is not None)}
    return TokenizerSettings(
        eos_token_ids=tuple(sorted(eos)),
        chat_templates=templates,
        special_tokens={name: text for name, text in texts.items() if text is not None},
    )


def _hf_templates(directory: Path, config: dict[str, Any]) -> dict[str, str]:
    """From files (transformers 5) or from tokenizer_config.json, where there may be one or a list of named ones."""
    found = config.get("chat_template") or {}
    if isinstance(found, str):
        found = {"default": found}
    elif isinstance(found, list):
        found = {item["name"]: item["template"] for item in found}
    default = directory / "chat_template.jinja"
    files = {path.stem: path for path in (directory / "additional_chat_templates").glob("*.jinja")}
    files |= {"default": default} if default.exists() else {}
    return {**found, **{name: path.read_text(encoding="utf-8") for name, path in files.items()}}


def _content(token: Any) -> str:
    """The text of a special token, which is a string or a dictionary."""
    return token["content"] if isinstance(token, dict) else str(token)


def _read_backend(path: Path) -> Backend:
    try:
        return Backend.from_file(str(path))
    except Exception as error:  # tokenizers raises the base class itself
        raise ModelLoadError(f"{path}: is no tokenizer that can be read ({error})") from error


def _cached(entry: Path) -> Backend | None:
    if not entry.exists():
        return None
    try:
        return _read_backend(entry)
    except ModelLoadError:
        entry.unlink(missing_ok=True)
        return None


def _store(entry: Path, backend: Backend) -> None:
    """Write and rename, so that a reader never sees half a file. A cache that cannot be written is no error."""
    with suppress(OSError):
        entry.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=entry.parent) as folder:
            file = Path(folder, entry.name)
            file.write_text(backend.to_str(), encoding="utf-8")
            file.replace(entry)


def _through_transformers(path: Path) -> Backend:
    """Any other kind of vocabulary. Takes 7 to 30 seconds for a large one, importing transformers included."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(str(path.parent), gguf_file=path.name).backend_tokenizer
    except (ImportError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelLoadError(f"{path}: no tokenizer can be built from its metadata ({error})") from error
