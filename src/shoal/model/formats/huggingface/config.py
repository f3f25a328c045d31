"""Builds a DecoderConfig from a Hugging Face directory's config.json, and reads other settings there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from shoal.errors import ModelLoadError
from shoal.model.decoder_config import DecoderConfig
from shoal.model.formats.config_check import check_config
from shoal.model.formats.huggingface.families.family import Family
from shoal.model.formats.huggingface.family_table import FAMILIES
from shoal.model.formats.huggingface.quantized.table import METHODS, check_method
from shoal.model.formats.huggingface.settings import Settings
from shoal.model.formats.model_file import GENAI_FILE, read_json

MAX_TOKEN_ID = 2**31 - 1
"""Tokens are 32-bit numbers everywhere."""


def config_from_hf(where: Path) -> DecoderConfig:
    """The model's settings from config.json and generation_config.json.

    Args:
        where: the directory that holds them, or the config.json, whatever its name.

    Raises:
        ModelLoadError: an architecture or setting is not supported, a key is missing, or a value is impossible.
    """
    return family_from_hf(where)[1]


def family_from_hf(where: Path) -> tuple[Family, DecoderConfig]:
    """The family of a model, with the result of `config_from_hf`. Raises as that does."""
    path = _config_file(where)
    try:
        family, config = _read(path, read_json(path), eos_token_ids_from_hf(where))
    except (TypeError, ValueError, KeyError, AttributeError, ArithmeticError) as error:
        raise ModelLoadError(f"{path}: holds an impossible value ({error})") from error
    check_config(path, config)
    return family, config


def config_from_settings(path: Path, model_type: str, family: Family, values: Mapping[str, Any]) -> DecoderConfig:
    """The settings that a family reads from values that are not from a config.json. Raises as `config_from_hf`.

    Args:
        path: of the file that the values come from, for errors.
        model_type: of the model.
        family: reads the values.
        values: by the keys of a config.json.
    """
    try:
        config = family.read(_settings(path, model_type, family, values, ()))
    except (TypeError, ValueError, KeyError, AttributeError, ArithmeticError) as error:
        raise ModelLoadError(f"{path}: holds an impossible value ({error})") from error
    check_config(path, config)
    return config


def eos_token_ids_from_hf(where: Path) -> tuple[int, ...]:
    """Tokens that end a text, from config.json and generation_config.json together, or from genai_config.json if
    neither exists. Raises ModelLoadError."""
    path = _config_file(where)
    if not path.exists() and (genai := path.parent / GENAI_FILE).exists():
        model = read_json(genai).get("model")
        return _token_ids(genai, model if isinstance(model, dict) else {})
    generation = path.parent / "generation_config.json"
    config = read_json(path)
    text = config.get("text_config")
    eos = _token_ids(path, config) or _token_ids(path, text if isinstance(text, dict) else {})
    eos += _token_ids(generation, read_json(generation)) if generation.exists() else ()
    return tuple(dict.fromkeys(eos))


def stored_dtype(where: Path) -> str:
    """The type of the weights by the settings, such as `bfloat16`; empty if they do not say it. Raises
    ModelLoadError."""
    config = read_json(_config_file(where))
    text = config.get("text_config")
    found = (one.get(key) for one in (config, text) if isinstance(one, dict) for key in ("dtype", "torch_dtype"))
    return next((dtype for dtype in found if isinstance(dtype, str)), "")


def quantization_from_hf(where: Path) -> Mapping[str, Any]:
    """The settings of the model's quantization; empty for an unquantized model, and for a quantization that belongs to
    its family. Raises ModelLoadError."""
    found = _quantization(read_json(_config_file(where)))
    return found if found.get("quant_method") in METHODS else {}


def holds_mxfp4(where: Path) -> bool:
    """Whether the model's experts are stored in MXFP4, as gpt-oss's are. Raises ModelLoadError."""
    return _quantization(read_json(_config_file(where))).get("quant_method") == "mxfp4"


def _quantization(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """The quantization settings of the model or of its text part."""
    text = raw.get("text_config")
    for one in (raw, text if isinstance(text, dict) else {}):
        settings = one.get("quantization_config")
        if settings is not None:
            return settings if isinstance(settings, dict) and settings else {"quant_method": settings}
    return {}


def _config_file(where: Path) -> Path:
    return where / "config.json" if where.is_dir() else where


def _token_ids(path: Path, config: Mapping[str, Any]) -> tuple[int, ...]:
    """One or several token ids; negative ones, which some files use for none, are left out."""
    value = config.get("eos_token_id")
    ids = [] if value is None else value if isinstance(value, list) else [value]
    if any(type(token) is not int or token > MAX_TOKEN_ID for token in ids):
        raise ModelLoadError(f"{path}: 'eos_token_id' is {value!r:.200}, not the number of a token, or several")
    return tuple(token for token in ids if token >= 0)


def _read(path: Path, raw: Mapping[str, Any], eos_token_ids: tuple[int, ...]) -> tuple[Family, DecoderConfig]:
    model_type = raw.get("model_type")
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        raise ModelLoadError(f"{path}: architecture {model_type!r} is not supported; there are {', '.join(FAMILIES)}")
    family = _with_text_family(FAMILIES[model_type], raw)
    if quantization := _quantization(raw):
        check_method(path, quantization.get("quant_method", "unknown"), family.quantizations)
    settings = _settings(path, model_type, family, _language_settings(path, raw, family), eos_token_ids)
    if settings.flag("use_bidirectional_attention"):
        raise ModelLoadError(f"{path}: 'use_bidirectional_attention' is not supported")
    return family, family.read(settings)


def _settings(
    path: Path, model_type: str, family: Family, values: Mapping[str, Any], eos_token_ids: tuple[int, ...]
) -> Settings:
    """The settings, with the family's own keys also under the common ones."""
    common = {family.aliases[key]: value for key, value in values.items() if key in family.aliases}
    return Settings(path, model_type, {**values, **common}, family.defaults, eos_token_ids)


def _with_text_family(family: Family, raw: Mapping[str, Any]) -> Family:
    """The family that reads the text part: that of the part's own type, if it can stand alone."""
    text = raw.get("text_config") if family.text_types else None
    kind = text.get("model_type") if isinstance(text, dict) else None
    own = FAMILIES.get(kind) if kind in family.text_types else None
    return family if own is None else replace(family, read=own.read, defaults=own.defaults)


def _language_settings(path: Path, raw: Mapping[str, Any], family: Family) -> Mapping[str, Any]:
    """The settings of the language model, which may be a part of another model; only the whole says whether the head is
    tied."""
    text = raw.get("text_config") if family.text_types else None
    if text is None:
        return raw
    kind = text.get("model_type", family.text_types[0])
    if kind not in family.text_types:
        known = ", ".join(family.text_types)
        raise ModelLoadError(f"{path}: a text part of the architecture {kind!r:.200} is not supported, only {known}")
    tied = {key: raw[key] for key in ("tie_word_embeddings",) if key in raw}
    return {**tied, **text}
