"""Reads tokenizers from a Hugging Face directory, or from a GGUF file's metadata."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend

from shoal.errors import ModelLoadError, while_reading
from shoal.model.formats.gguf.header import GgufHeader
from shoal.model.formats.model_file import read_json
from shoal.model.text.end_tokens import end_token_ids
from shoal.model.text.vocabulary.from_gguf import build_from_gguf
from shoal.model.text.vocabulary.guard import while_building
from shoal.model.text.vocabulary.tokens import surround

MAX_JSON_BYTES = 1 << 27
"""Largest tokenizer.json that is read; four times the largest known one (Gemma 3: 33 MB)."""
SPECIAL_NAMES = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
"""Part of the GGUF key for each name in a chat template."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizerSettings:
    """What a tokenizer needs besides its tokenizer.json."""

    eos_token_ids: tuple[int, ...]
    chat_templates: dict[str, str] = field(default_factory=dict)
    """Templates by name: `default`, and `tool_use` if the model has a separate one for tools."""
    special_tokens: dict[str, str] = field(default_factory=dict)
    """bos_token, eos_token and others, for the chat template."""


def from_hf_directory(directory: Path) -> tuple[Backend, TokenizerSettings]:
    """The tokenizer of a Hugging Face directory. Raises ModelLoadError."""
    from shoal.model.formats.huggingface.config import eos_token_ids_from_hf  # imports every family of that format

    config_path, config = _hf_config(directory)
    templates, special = read_templates(directory)
    with while_reading(config_path):
        backend = _hf_backend(directory, config, special)
    eos = {*eos_token_ids_from_hf(directory), backend.token_to_id(special.get("eos_token", ""))} - {None}
    settings = TokenizerSettings(eos_token_ids=tuple(sorted(eos)), chat_templates=templates, special_tokens=special)
    return backend, settings


def read_templates(directory: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Chat templates of a Hugging Face directory by name, and the special tokens for them. Raises ModelLoadError."""
    config_path, config = _hf_config(directory)
    with while_reading(config_path):
        special = {name: _content(config[name]) for name in SPECIAL_NAMES if config.get(name)}
        return _hf_templates(directory, config), special


def from_gguf(path: Path) -> tuple[Backend, TokenizerSettings]:
    """The tokenizer of a GGUF file.

    Raises:
        ModelLoadError: the file is broken, or has no tokenizer that can be built.
    """
    header = GgufHeader(path)
    backend = build_from_gguf(header)
    return backend, _gguf_settings(header, backend)


def _gguf_settings(header: GgufHeader, backend: Backend) -> TokenizerSettings:
    metadata, num_tokens = header.metadata, backend.get_vocab_size()
    ids = {name: metadata.get(f"tokenizer.ggml.{part}_token_id") for name, part in SPECIAL_NAMES.items()}
    texts = {
        name: backend.id_to_token(token)
        for name, token in ids.items()
        if isinstance(token, int) and 0 <= token < num_tokens
    }
    keys = {"default": "tokenizer.chat_template", "tool_use": "tokenizer.chat_template.tool_use"}
    templates = {name: metadata[key] for name, key in keys.items() if key in metadata}
    if not all(isinstance(template, str) for template in templates.values()):
        raise ModelLoadError(f"{header.path}: tokenizer.chat_template is not a text")
    return TokenizerSettings(
        eos_token_ids=end_token_ids(header, backend),
        chat_templates=templates,
        special_tokens={name: text for name, text in texts.items() if text is not None},
    )


def _hf_config(directory: Path) -> tuple[Path, dict[str, Any]]:
    path = directory / "tokenizer_config.json"
    return path, read_json(path) if path.exists() else {}


def _hf_backend(directory: Path, config: dict[str, Any], special: dict[str, str]) -> Backend:
    path, model_path = directory / "tokenizer.json", directory / "tokenizer.model"
    if path.is_file():
        with while_building(f"{path}: it is no tokenizer that can be read"):
            if (num_bytes := path.stat().st_size) > MAX_JSON_BYTES:
                raise ValueError(f"it has {num_bytes} bytes, more than {MAX_JSON_BYTES}")
            return Backend.from_file(str(path))
    if model_path.is_file():
        return _from_sentencepiece(model_path, config, special)
    raise ModelLoadError(
        f"{directory} has neither tokenizer.json nor tokenizer.model; save its tokenizer with transformers first"
    )


def _from_sentencepiece(path: Path, config: dict[str, Any], special: dict[str, str]) -> Backend:
    """A tokenizer from SentencePiece's file and what tokenizer_config.json adds to it.

    Source: transformers, whose Llama and Gemma begin with BOS unless told otherwise, and whose T5 ends with EOS.
    """
    from shoal.model.text.vocabulary.from_sentencepiece import read_sentencepiece  # needs protobuf

    file = read_sentencepiece(path, add_space_prefix=config.get("add_prefix_space"))
    backend = file.tokenizer
    with while_building(f"{path}: tokenizer_config.json does not fit to it"):
        _add_tokens(backend, config)
        ids = {"bos": file.bos_id, "eos": file.eos_id}
        for name in ids:
            if (text := special.get(f"{name}_token")) is not None:
                ids[name] = _known(backend, text)
        begins, ends = config.get("add_bos_token", not file.is_unigram), config.get("add_eos_token", file.is_unigram)
        first = [ids["bos"]] if begins and ids["bos"] >= 0 else []
        last = [ids["eos"]] if ends and ids["eos"] >= 0 else []
        if first or last:
            backend.post_processor = surround(first, last, backend.id_to_token)
    return backend


def _add_tokens(backend: Backend, config: dict[str, Any]) -> None:
    """Add tokens in the order of their ids, so that each one gets its own. Raises ValueError if one does not."""
    tokens = sorted((int(token_id), token) for token_id, token in (config.get("added_tokens_decoder") or {}).items())
    for token_id, token in tokens:
        flags = {name: bool(token.get(name)) for name in ("single_word", "lstrip", "rstrip", "normalized", "special")}
        added = AddedToken(token["content"], **flags)
        (backend.add_special_tokens if added.special else backend.add_tokens)([added])
        if backend.token_to_id(token["content"]) != token_id:
            raise ValueError(f"the added token {token['content']!r} cannot have the id {token_id}")


def _known(backend: Backend, text: str) -> int:
    token_id = backend.token_to_id(text)
    if token_id is None:
        raise ValueError(f"the special token {text!r} is not in the vocabulary")
    return token_id


def _hf_templates(directory: Path, config: dict[str, Any]) -> dict[str, str]:
    """Templates from files (transformers 5) or from tokenizer_config.json, which may have one template or a list of
    named ones."""
    found = config.get("chat_template") or {}
    if isinstance(found, str):
        found = {"default": found}
    elif isinstance(found, list):
        found = {item["name"]: item["template"] for item in found}
    default = directory / "chat_template.jinja"
    files = {path.stem: path for path in (directory / "additional_chat_templates").glob("*.jinja")}
    files |= {"default": default} if default.exists() else {}
    templates = {**found, **{name: path.read_text(encoding="utf-8") for name, path in files.items()}}
    if not all(isinstance(template, str) for template in templates.values()):
        raise ValueError("a chat template is not a text")
    return templates


def _content(token: Any) -> str:
    """The text of a special token, which is a string or a dictionary."""
    return str(token["content"]) if isinstance(token, dict) else str(token)
