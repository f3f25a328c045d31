"""Whether a language model ranks texts by answering yes or no, told by its files.

Source: Qwen3 Embedding, arXiv 2506.05176, section 2; sentence-transformers, `LogitScore`; llama.cpp, the converter's
keys of ranking models.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from shoal.errors import ModelLoadError
from shoal.model.encoder.pair_prompt import FormPrompt, PairPrompt, TemplatePrompt
from shoal.model.encoder.sentence_settings import longest_text, module_folders, read_optional
from shoal.model.formats.gguf.header import GgufHeader
from shoal.model.formats.model_file import read_json
from shoal.model.text.chat_template import ChatTemplate
from shoal.model.text.tokenizer_files import read_templates

_SCORE = "LogitScore"
_GGUF_TEMPLATE = "tokenizer.chat_template.rerank"
_NAME = "reranker"
_QWEN_TYPES = ("qwen3", "qwen3_moe")


@dataclass(frozen=True, slots=True, kw_only=True)
class YesNoSettings:
    """Settings of one model, whose score of a text is the probability of `yes` among the two tokens."""

    prompt: PairPrompt
    yes: int | str
    """A token, or the text of a single token."""
    no: int | str
    max_tokens: int | None = None
    """Most tokens of a prompt; None: what the model can take."""


def read_yes_no(folder: Path) -> YesNoSettings | None:
    """The settings in a Hugging Face directory that sentence-transformers saved with `LogitScore`, or that of a Qwen3
    whose name says it is a reranker. None: the model is neither.

    Raises:
        ModelLoadError: the model is one of these, but its settings cannot be used.
    """
    modules = module_folders(folder)
    if _SCORE in modules:
        return _of_modules(folder, folder / modules[_SCORE] / "config.json")
    is_named = any(_NAME in part.lower() for part in folder.resolve().parts[-3:])
    if modules or not is_named or read_json(folder / "config.json").get("model_type") not in _QWEN_TYPES:
        return None
    return YesNoSettings(prompt=FormPrompt(), yes="yes", no="no")


def gguf_yes_no(header: GgufHeader) -> YesNoSettings:
    """The settings in a GGUF file whose `pooling_type` is ranking. Raises ModelLoadError if it ranks in another way."""
    form = header.metadata.get(_GGUF_TEMPLATE)
    labels = f"{header.metadata.get('general.architecture')}.classifier.output_labels"
    if not isinstance(form, str) or header.array_length(labels) != 2 or header.array(labels) != ["yes", "no"]:
        raise ModelLoadError(
            f"{header.path}: ranking with a separate head is not supported, only ranking by answering `yes` "
            f"or `no` to {_GGUF_TEMPLATE}"
        )
    return YesNoSettings(prompt=FormPrompt(form), yes="yes", no="no")


def _of_modules(folder: Path, config_path: Path) -> YesNoSettings:
    fields = read_json(config_path)
    yes, no = (fields.get(f"{name}_token_id") for name in ("true", "false"))
    if type(yes) is not int or type(no) is not int or min(yes, no) < 0 or yes == no:
        raise ModelLoadError(f"{config_path}: scores by one token are not supported, only by two")
    settings, more = read_optional(folder / "sentence_bert_config.json"), _saved_prompts(folder)
    variables = dict(_object(_object(settings.get("processing_kwargs")).get("chat_template")))
    templates, special = read_templates(folder)
    name = variables.pop("chat_template", "default")
    if not isinstance(name, str) or name not in templates:
        raise ModelLoadError(f"{folder}: there is no chat template {str(name)[:100]!r}")
    try:
        prompt = TemplatePrompt(ChatTemplate(templates[name], special), variables, more)
    except ModelLoadError as error:
        raise ModelLoadError(f"{folder}: {error}") from error
    return YesNoSettings(prompt=prompt, yes=yes, no=no, max_tokens=longest_text(folder))


def _saved_prompts(folder: Path) -> str:
    """The prompt that is used if no other is named."""
    more = read_optional(folder / "config_sentence_transformers.json")
    text = _object(more.get("prompts")).get(str(more.get("default_prompt_name")))
    return text if isinstance(text, str) else ""


def _object(value: object) -> Mapping[str, Any]:
    return cast(Mapping[str, Any], value) if isinstance(value, dict) else {}
